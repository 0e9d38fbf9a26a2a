"""Array algorithms: a NumPy definition and faster copies of each, side by side."""
