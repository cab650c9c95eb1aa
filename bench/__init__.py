"""Benchmarks: `python -m bench`. Ratios of things measured side by side, with their intervals."""
