"""Building TensorRT engines; in bundles for devices that have TensorRT."""
