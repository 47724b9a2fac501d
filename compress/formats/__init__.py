"""What the program knows of a file format: one folder and one `FormatSupport` for each (see `base`)."""
