"""The imbalance report: what a detector's training on a dataset is unbalanced in, at the paper's three levels."""
