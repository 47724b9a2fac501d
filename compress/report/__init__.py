"""Findings of a run, for people (terminal) and for programs (JSON). Nothing here imports torch."""
