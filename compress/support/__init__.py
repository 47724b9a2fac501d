"""Helpers that every part needs and none is about: files, YAML, processes, versions."""
