"""`python -m compress.cache`: what finished stages take, and what may go."""
