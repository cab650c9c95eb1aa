"""Tasks, grading, sweeps, metrics, statistics, reports."""
