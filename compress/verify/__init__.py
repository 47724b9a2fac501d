"""Compare what is meant to compute the same before anything takes its output."""
