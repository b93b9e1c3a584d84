"""One run: its settings, its objects, its loop, its folder."""
