"""Validation of datasets before training: damage is reported, repaired, skipped or refused."""
