"""Measuring and showing what a detector finds."""
