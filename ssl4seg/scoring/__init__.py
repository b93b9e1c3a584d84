"""From a trained network to scores: inference at native size, post-processing, metrics, tables, pictures."""
