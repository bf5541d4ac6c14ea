"""Campaigns that attack the system: ``python -m stress.NAME``, kept in runs/stress, see docs/results/reliability.md."""
