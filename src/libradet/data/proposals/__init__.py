"""Precomputed proposals: their files, and matching of them to images."""
