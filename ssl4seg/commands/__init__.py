"""The command line: words, configuration, sweeps, and what each command does."""
