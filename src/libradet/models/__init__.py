"""Detectors and their configuration, built from ``geometry`` and ``balance``."""
