"""Training that recovers accuracy: the loop, and the small pieces that fine-tuning and QAT put together.

Importing this package imports no torch; its modules do, but for `options`.
"""
