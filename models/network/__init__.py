"""Networks: the paper's architectures, their layers, and what folds them for inference."""
