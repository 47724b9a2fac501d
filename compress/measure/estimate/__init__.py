"""Latency on a device nobody has at hand: a roofline over the exported graph, always labelled `estimate`."""
