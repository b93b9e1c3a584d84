"""What several methods are made of: losses, ramps, teachers, discriminators."""
