"""Loggers: where the curves, overlays and scores of a run are written to, one class each (the group `logger`)."""
