"""ONNX Runtime's captured graphs without a GPU: a session on the CPU that is held to the same rules.

As onnxruntime-gpu 1.31.1 does it: the call that captures under a number runs the step three times; a later call under
that number, on the same thread, runs what was captured, at the addresses of then, and looks at no binding.
"""

from __future__ import annotations

import threading
from typing import Any


class CapturingSession:
    """An ``InferenceSession`` around another one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._captured: dict[tuple[int, str], dict[str, tuple[Any, ...]]] = {}
        self.replays = self.captures = self.plain = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def io_binding(self) -> _Binding:
        return _Binding()

    def run_with_iobinding(self, binding: _Binding, options: Any) -> None:
        number = options.get_run_config_entry("gpu_graph_id")
        if number == "-1":
            self.plain += 1
            self._run(binding.bound, options)
            return
        key = (threading.get_ident(), number)
        if key in self._captured:
            self.replays += 1
            self._run(self._captured[key], options)
            return
        self.captures += 1
        self._captured[key] = dict(binding.bound)
        for _ in range(3):
            self._run(binding.bound, options)

    def _run(self, bound: dict[str, tuple[Any, ...]], options: Any) -> None:
        real = self._inner.io_binding()
        for name, (kind, *where) in bound.items():
            getattr(real, kind)(name, *where)
        self._inner.run_with_iobinding(real, options)


class _Binding:
    def __init__(self) -> None:
        self.bound: dict[str, tuple[Any, ...]] = {}

    def bind_input(self, name: str, *where: Any) -> None:
        self.bound[name] = ("bind_input", *where)

    def bind_output(self, name: str, *where: Any) -> None:
        self.bound[name] = ("bind_output", *where)
