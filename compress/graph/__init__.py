"""The one captured form of a model: capture, weights, kinds of operators."""
