"""From an artifact to replicas behind one address, until a signal stops them."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from exaone_export.errors import ArtifactError

from ..run import listen
from ..settings import Settings
from .cluster import connected

__all__ = ["serve_on_ray"]

_APPLICATION = "exaone-export"


def serve_on_ray(settings: Settings, started: Callable[[str], None] = lambda _: None, **replicas: Any) -> None:
    """Serve an artifact by several processes until a signal stops it.

    Args:
        settings: Of the server.
        started: Is told the server's address once every replica is ready.
        replicas: Of `exaone_export.runtime.serve.ray.application.Replicas`.

    Raises:
        ArtifactError: The replicas do not start.
        UnsupportedOptionError: The address cannot be listened on, or there is no Ray cluster.
    """
    with listen(settings) as listener:  # for its error, and for a free port where it is 0
        host, port = listener.getsockname()[:2]
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray import serve

    from .application import Replicas, make_application

    chosen = Replicas(**replicas)
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    with connected(chosen.most * chosen.threads), _signals() as stopped:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        try:
            serve.run(make_application(chosen, settings), name=_APPLICATION)
            started(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            stopped.wait()
            serve.delete(_APPLICATION)  # answers that have begun are finished
        except RuntimeError as cause:
            raise ArtifactError(
                f"the replicas did not start ({cause}); try one alone: exaone-export serve {chosen.artifact}."
            ) from cause
        finally:
            serve.shutdown()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGTERM, Ctrl-C and a terminal that is closed set; a second signal does what it did before."""
    stopped, before = threading.Event(), dict[int, Any]()

    def handle(number: int, _frame: FrameType | None) -> None:
        stopped.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    hangup = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL else ()  # not under nohup
    for one in (signal.SIGTERM, signal.SIGINT, *hangup):
        before[one] = signal.signal(one, handle)
    try:
        yield stopped
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
