"""What a run found, for people (terminal) and for programs (JSON). Nothing here imports torch."""
