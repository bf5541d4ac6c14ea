"""Dataset formats: one module per format, which detects, reads and writes it."""
