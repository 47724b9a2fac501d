"""Tables of what a device's ONNX parser reads: one per parser version (YAML, sources by entry), held against files.

table.py reads the tables, rules.py has what a table cannot say in data, fit.py holds every node of a graph against one
and writes what the parser lacks with what it has (forms.py), or refuses it by name.
"""
