"""Training: from labelled flows to a model file, by trees or networks."""
