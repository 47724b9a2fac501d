"""`python -m compress.doctor`: what will work on this machine, and what to install for the rest."""
