"""The imbalance report: what a detector's training on a data set is unbalanced in, at the paper's three levels."""
