"""What is meant to compute the same is compared before anything takes its output."""
