"""The Coral Edge TPU: what it maps, its compiler, and the compiler's log."""
