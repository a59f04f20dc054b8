"""Compares the platform with the alternative, in the same run: `python -m benchmarks`."""
