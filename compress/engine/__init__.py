"""TensorRT engines: how one is to be built, building it where that is possible, and racing precisions."""
