"""Getting a finished run onto the device it was made for: bundles, the agent that measures there, the way to it.

Nothing here imports torch, so that `python -m compress.device` starts at once.
"""
