"""Benchmarks of libradet against other libraries, with the same weights and images in the same run."""
