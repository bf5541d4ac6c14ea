"""Exported detectors in other runtimes: `python -m benchmarks.runtimes` writes the table of docs/runtimes.md."""
