"""The host's memory and PyTorch's answer alike, and pages of a cache that no token reaches cost nothing."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exaone_export.runtime.core.buffers import CacheBuffers, CacheGeometry
from exaone_export.runtime.core.memory import HOST, Memory
from exaone_export.runtime.sessions.torch_memory import TorchMemory, as_tensor, torch_dtype
from exaone_export.targets.cache_layout import CacheLayout, LayerCache

BOTH = pytest.mark.parametrize("memory", [HOST, TorchMemory("cpu")])


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int64"])
def test_arrays_have_the_size_of_their_numbers(memory: Memory, dtype: str) -> None:
    bits = torch.zeros(1, dtype=torch_dtype(dtype)).element_size() * 8
    block = memory.block(1000, dtype, finite=True)
    assert block.nbytes == 1000 * bits // 8 and not as_tensor(block, dtype).any()
    output = memory.empty((2, 3, 5), dtype)
    assert tuple(output.shape) == (2, 3, 5) and as_tensor(output, dtype).dtype == torch_dtype(dtype)
    copied = memory.copy(output)
    output[:], copied[:] = 1, 0
    assert as_tensor(output, dtype).all() and not as_tensor(copied, dtype).any()


@BOTH
def test_addresses_are_never_null_and_those_of_caches_aligned(memory: Memory) -> None:
    for shape in ((3, 7), (5,), (4, 0, 9)):
        assert memory.address(memory.empty(shape, "float32"))
    assert memory.address(memory.block(3, "int8", finite=False)) % 64 == 0
    with pytest.raises(AssertionError):
        memory.address(memory.empty((4, 4), "float32")[:, 1:])


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_numbers_are_read_on_the_host(memory: Memory, dtype: str) -> None:
    """Of a slice of a larger array, as a step's logits are; 258 has a ninth bit, which bfloat16 rounds off."""
    array = memory.empty((2, 3, 4), dtype)
    as_tensor(array, dtype)[:] = torch.tensor([[1.5, -2.0, 0.0, 258.0]])
    numbers = memory.numbers(array[1, 1:], dtype)
    assert numbers.dtype in (np.float32, np.float16) and numbers.tolist() == [[1.5, -2.0, 0.0, 258.0]] * 2


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_bits_are_read_on_the_host_and_written(memory: Memory, dtype: str) -> None:
    array = memory.empty((2, 3, 4), dtype)
    as_tensor(array, dtype)[:] = torch.arange(24).view(2, 3, 4)
    bits = memory.on_host(array[:, 1:])
    assert bits.dtype == HOST.empty((0,), dtype).dtype and as_tensor(bits, dtype).tolist() == array_of(
        array[:, 1:], dtype
    )
    changed = bits.copy()
    changed[0, 0] = bits[1, 1]
    memory.write(array[:, 1:], changed)
    assert array_of(array[0], dtype) == [[0, 1, 2, 3], [20, 21, 22, 23], [8, 9, 10, 11]]


def array_of(array: Any, dtype: str) -> Any:
    return as_tensor(array, dtype).tolist()


def test_a_tensor_shares_an_array_s_memory() -> None:
    bits = HOST.empty((2,), "bfloat16")
    bits[:] = np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16
    tensor = as_tensor(bits, "bfloat16")
    assert tensor.tolist() == [1.5, -2.0]
    tensor[0] = 0
    assert bits[0] == 0


def test_caches_of_one_memory_are_of_one_geometry() -> None:
    layout = CacheLayout(64, (LayerCache(64, 0),))
    host, device = (CacheGeometry(layout, 2, 3, "bfloat16", True, memory) for memory in (HOST, TorchMemory("cuda")))
    assert host == CacheGeometry(layout, 2, 3, "bfloat16", True) and host != device
    assert (host.device, device.device, host.item_bytes) == ("cpu", "cuda", 2)
    buffers = CacheBuffers(host, 2)
    assert [tensor.shape for tensor in buffers.tensors] == [(2, 2, 64, 3)] * 2


def test_a_cache_holds_the_pages_that_tokens_reach() -> None:
    layout = CacheLayout(8192, (LayerCache(8192, 0),) * 8)
    before = _resident_bytes()
    buffers = CacheBuffers(CacheGeometry(layout, 8, 64, "float32", True, finite_rows=True), 1)  # 256 MiB
    for tensor in buffers.tensors:
        tensor[:, :, :16] = 1
    assert _resident_bytes() - before < 8 << 20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
