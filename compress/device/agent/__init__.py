"""Programs that run on a device: they check the models of a bundle there, time them, build TensorRT engines of them.

Travels in every bundle as the folder `agent/`, started by the scripts beside it (`start.py` under two names), except
`courier.py`, which goes to a device alone. Standard library only, Python 3.6 to 3.13; runtimes and numpy are imported
where they are used. It imports nothing of the project around it; what both sides need (the CUDA driver, TensorRT's
engines) the host imports from here.
"""
