"""Imbalance report: how unbalanced the training of a detector on a dataset is, at the three levels of the paper."""
