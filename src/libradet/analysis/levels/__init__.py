"""Measurements at the three levels of the paper (samples, features, objective), and of what results from them."""
