"""`python -m compress.cache`: what finished stages and models take, and what may go."""
