"""Stress tests and fuzzing: ``python -m stress.NAME``; results in runs/stress, see docs/results/reliability.md."""
