"""Making an ONNX graph smaller and faster without changing what it computes: passes, proof, choice by measurement."""
