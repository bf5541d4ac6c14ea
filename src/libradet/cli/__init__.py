"""Command-line interface: one module for each command, with its parser and its body."""

from libradet.cli.app import main

__all__ = ["main"]
