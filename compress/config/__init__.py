"""From YAML and overrides to one tree."""
