"""`report.html`: one file, no network, no script."""
