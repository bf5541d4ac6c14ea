"""Detectors: floor 3, built from geometry and balance."""
