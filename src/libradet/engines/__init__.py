"""Engines: what computes the convolutions of a detector in inference."""
