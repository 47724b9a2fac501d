"""The words of the program: errors, artifacts, stages, targets, budgets."""
