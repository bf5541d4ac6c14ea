"""Boxes where objects may be, found beforehand: their files, and the images that they belong to."""
