"""Any `.tflite` file, described and held against the Edge TPU."""
