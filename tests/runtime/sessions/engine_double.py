"""An engine without a GPU: the graph that an engine is built from, behind the calls that the session makes.

What the session tells it - profile, shapes, addresses - is held to TensorRT's rules, and a step reads and writes at
those addresses and nowhere else.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.mirror.heads import open_model
from exaone_export.runtime.sessions.engine_loading import LoadedEngine
from exaone_export.runtime.sessions.kernel_file import KernelFile
from exaone_export.runtime.sessions.tensorrt import TensorRTSession
from exaone_export.targets.engine import DECODE, PREFILL, EngineInfo, Profile, Range

_TYPES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(int64)": ("", np.int64),
}


class EngineDouble:
    """What the session asks of an engine."""

    def __init__(self, artifact: Artifact) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        path = str(artifact.model_path)
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.values = {value.name: value for value in (*self.session.get_inputs(), *self.session.get_outputs())}
        assert artifact.engine is not None
        self.profiles = artifact.engine.profiles

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=_TYPES[self.values[name].type][0])

    def create_execution_context(self, config: Any = None) -> ContextDouble:
        if config is not None:
            # Kernels are compiled for what the engine has not run yet.
            config.cache.kernels.setdefault("kernel", b"compiled")
        return ContextDouble(self)

    def create_runtime_config(self) -> RuntimeConfigDouble:
        return RuntimeConfigDouble()


class RuntimeCacheDouble:
    """TensorRT-RTX's cache of compiled kernels."""

    def __init__(self) -> None:
        self.kernels: dict[str, bytes] = {}

    def serialize(self) -> bytes:
        return b"".join(name.encode() + b"=" + code + b";" for name, code in self.kernels.items())

    def deserialize(self, blob: bytes) -> bool:
        if not blob.endswith(b";"):
            return False
        self.kernels = {
            name.decode(): code for name, _, code in (entry.partition(b"=") for entry in blob.split(b";")[:-1])
        }
        return True


class RuntimeConfigDouble:
    """What the session asks of a runtime configuration."""

    cuda_graph_strategy: Any = None
    cache: RuntimeCacheDouble

    def create_runtime_cache(self) -> RuntimeCacheDouble:
        return RuntimeCacheDouble()

    def set_runtime_cache(self, cache: RuntimeCacheDouble) -> bool:
        self.cache = cache
        return True


class ContextDouble:
    """What the session asks of an execution context."""

    def __init__(self, engine: EngineDouble) -> None:
        self.engine = engine
        self.profile: Profile | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.calls = 0

    def set_optimization_profile_async(self, profile: int, _stream: int) -> bool:
        self.profile = self.engine.profiles[profile]
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        symbols = self.engine.values[name].shape
        assert len(shape) == len(symbols)
        for size, symbol in zip(shape, symbols, strict=True):
            bounds = getattr(self.profile, symbol) if isinstance(symbol, str) else Range(symbol, symbol, symbol)
            if not bounds.minimum <= size <= bounds.maximum:
                return False
        self.shapes[name] = shape
        self.calls += 1
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        # torch aligns host memory to 64 bytes, and the device's to 512.
        assert address % 64 == 0
        self.addresses[name] = address
        self.calls += 1
        return True

    def execute_async_v3(self, _stream: int) -> bool:
        session = self.engine.session
        assert self.addresses.keys() == self.engine.values.keys()
        sizes = {
            symbol: size
            for name, shape in self.shapes.items()
            for symbol, size in zip(self.engine.values[name].shape, shape, strict=True)
        }
        binding = session.io_binding()
        for bind, values in ((binding.bind_input, session.get_inputs()), (binding.bind_output, session.get_outputs())):
            for value in values:
                if value.name.startswith("present."):
                    past = value.name.replace("present", "past_key_values")
                    assert self.addresses[value.name] == self.addresses[past], "the cache is not updated in place"
                shape = [sizes.get(size, size) for size in value.shape]
                bind(value.name, "cpu", 0, _TYPES[value.type][1], shape, self.addresses[value.name])
        session.run_with_iobinding(binding)
        return True


def engine_info(*, max_batch: int = 64, chunk: int = 16, max_length: int = 256) -> EngineInfo:
    """What a manifest says of an engine for a few rows and short steps."""
    total, batch, one = Range(1, 64, max_length), Range(1, 1, max_batch), Range(1, 1, 1)
    steps = Range(1, chunk, chunk)
    return EngineInfo(
        flavour="tensorrt_rtx",
        version="1.7.1.116",
        compute_capabilities=None,
        driver=None,
        profiles=(Profile(PREFILL, batch, steps, total, steps), Profile(DECODE, batch, one, total, one)),
        options={},
        plugin=False,
        onnx={"model.onnx": "0" * 64},
    )


def open_with_engine_session(folder: Path, kernels: KernelFile | None = None, **limits: int) -> Any:
    """The artifact behind the session of engines; with ``kernels``, of those that compile them when they run."""
    with open_model(Artifact.open(folder), threads=1) as plain:
        beside = (plain.generation_config,) if isinstance(plain, ExaoneForCausalLM) else ()
    artifact = dataclasses.replace(Artifact.open(folder), engine=engine_info(**limits))
    module: Any = SimpleNamespace(CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE=1))
    loaded = LoadedEngine(module, None, EngineDouble(artifact), captures_graphs=kernels is not None, kernels=kernels)
    session = TensorRTSession(artifact, loaded=loaded, device="cpu")
    return type(plain)(session, plain.config, *beside)
