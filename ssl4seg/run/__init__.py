"""One run: its folder, its loop, and what it is assembled from."""
