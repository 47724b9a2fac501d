"""Making and judging for `bench_pruning.py`."""
