"""One tree of settings out of YAML and overrides."""
