"""Knowledge of file formats: one folder and one `FormatSupport` for each (see `base`)."""
