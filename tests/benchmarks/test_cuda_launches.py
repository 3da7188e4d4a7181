"""What the stand-in's log is read as; the stand-in itself needs packages that tests do not install."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("cuda_launches")


def test_launches_are_counted_by_kernel_and_copies_apart(tool: ModuleType) -> None:
    lines = [
        "void onnxruntime::cuda::_Clip<long>(long const*, long*)",
        "cublasGemmEx",
        "cublasGemmEx",
        "copy to host",
        "== graph launch",
    ]
    assert tool._counted(lines) == {
        "launches": 3,
        "copies": 1,
        "graph launches": 1,
        "by kernel": {"cublasGemmEx": 2, "cuda::_Clip<long>": 1},
    }


def test_every_library_of_the_provider_has_a_stand_in(tool: ModuleType) -> None:
    for source in {source for source in tool.libraries.SOURCES.values() if source is not None}:
        text = (tool.libraries.HERE / source).read_text()
        assert tool.libraries._DEFINED.findall(text)
    runtime = (tool.libraries.HERE / "runtime.c").read_text()
    assert {"cudaLaunchKernel", "cudaMalloc", "__cudaRegisterFunction"} <= set(tool.libraries._DEFINED.findall(runtime))
