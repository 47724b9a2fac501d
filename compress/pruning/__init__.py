"""Pruning: which channels, heads, blocks or weights go, and what that saves."""
