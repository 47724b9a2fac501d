"""A stand-in for TensorRT's Python package: enough of it to reach every refusal and failure of build_engine.py.

It builds nothing: there is no engine without a GPU. What it does is told by environment variables: STANDIN_VERSION,
STANDIN_PARSER (the error that the parser reports) and STANDIN_BUILDER (the error that the builder logs). Python 3.6.
"""

import os

__version__ = os.environ.get("STANDIN_VERSION", "8.2.1.8")
STRONGLY_TYPED = __version__.startswith("11.")


class ILogger:
    VERBOSE, INFO, WARNING, ERROR, INTERNAL_ERROR = range(5)


class NetworkDefinitionCreationFlag:
    if not STRONGLY_TYPED:
        EXPLICIT_BATCH = 0


class BuilderFlag:
    GPU_FALLBACK, SPARSE_WEIGHTS = range(2)
    if not STRONGLY_TYPED:
        FP16, INT8 = 2, 3


class DeviceType:
    GPU, DLA = range(2)


class ParserError:
    def __init__(self, text):
        self.text = text

    def node(self):
        return 5

    def desc(self):
        return self.text


class Input:
    name, shape = "input", (1, 3, 8, 8)


class Network:
    num_layers = 0  # so nothing in it is FP16

    def get_input(self, index):
        return Input()


class Config:
    """As of 8.2: no memory pools; flags and DLA settings are only kept."""

    def __init__(self):
        self.flags = []

    def set_flag(self, flag):
        self.flags.append(flag)


class Builder:
    def __init__(self, log):
        self.log = log

    def create_network(self, flags):
        assert flags == (0 if STRONGLY_TYPED else 1 << NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        return Network()

    def create_builder_config(self):
        return Config()

    def build_serialized_network(self, network, config):
        self.log.log(ILogger.ERROR, os.environ.get("STANDIN_BUILDER", "a stand-in builds nothing"))
        return


class OnnxParser:
    def __init__(self, network, log):
        self.problem = os.environ.get("STANDIN_PARSER")
        self.num_errors = 1 if self.problem else 0

    def parse(self, content):
        return not self.problem

    def get_error(self, index):
        return ParserError(self.problem)


def init_libnvinfer_plugins(log, namespace):
    return True
