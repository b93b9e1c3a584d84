"""ssl4seg: semi-supervised image segmentation experiments, one command away."""
