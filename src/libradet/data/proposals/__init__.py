"""Boxes where objects may be, found beforehand: their files, and the pictures that they belong to."""
