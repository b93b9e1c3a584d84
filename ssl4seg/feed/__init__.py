"""From cases to batches: the images of a step, and their views."""
