"""ONNX files: capture a module, tidy the graph, lower its opset, write metadata, check.

Models are edited as `onnxscript.ir` (onnx-ir) objects: typed, and weights are not copied on every edit.
"""
