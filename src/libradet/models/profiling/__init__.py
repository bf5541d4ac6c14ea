"""Parameters, arithmetic and memory of detectors, computed without running them on data."""
