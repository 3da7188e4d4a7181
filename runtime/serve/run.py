"""From an artifact to a server that listens, until a signal stops it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack

import uvicorn

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, TargetError, UnsupportedOptionError
from exaone_export.model.heads import HIDDEN_STATES

from ..constraints.constraint import Compiler
from ..runner.eligible import check_runs_here
from ..runner.lookup import default_lookup
from ..runner.runner import Runner
from ..text.chat import ChatFormat
from .app import create_app
from .embedding import Embedder
from .lifecycle import GracefulServer, Lifecycle
from .loading import Loading
from .logs import start_log
from .metrics import Metrics
from .served import Served
from .settings import Settings
from .transport.connections import KEEP_ALIVE_SECONDS, TimedProtocol, connection_limit

__all__ = ["check_served", "listen", "open_served", "serve"]

_log = logging.getLogger(__name__)


def serve(
    artifact: Artifact,
    settings: Settings,
    loading: Loading,
    started: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve an artifact until a signal stops it.

    Args:
        artifact: The opened artifact.
        settings: How.
        loading: How the artifact is loaded.
        started: Is told the server's address once it listens.

    Raises:
        ArtifactError: The artifact cannot be read, or its head is neither for text nor for vectors.
        TargetError: It does not run here.
        UnsupportedOptionError: The address cannot be listened on.
    """
    start_log(as_json=settings.log_json)
    with ExitStack() as stack:
        listener = stack.enter_context(listen(settings))
        served = open_served(artifact, settings, loading, stack)
        served.lifecycle.most_in_flight = most = connection_limit()
        config = uvicorn.Config(
            create_app(served),
            http=TimedProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=most,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=2,
        )
        host, port = listener.getsockname()[:2]
        started(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        GracefulServer(config, served.lifecycle, settings.grace_seconds).run([listener])
        _log.info("stopped")


def open_served(artifact: Artifact, settings: Settings, loading: Loading, stack: ExitStack) -> Served:
    """Load an artifact; leaving ``stack`` releases it.

    Raises:
        ArtifactError: It cannot be read, or its head is neither for text nor for vectors.
        TargetError: It does not run here.
    """
    check_served(artifact)
    lifecycle = Lifecycle(settings.request_seconds)
    if artifact.spec.head.kind == HIDDEN_STATES:
        if artifact.device != "cpu":
            raise TargetError(
                f"{artifact.folder} is for {artifact.manifest.target}, and vectors are served on the CPU; export with "
                f"--target ort-cpu."
            )
        embedder = Embedder(artifact, threads=loading.threads, queue=loading.queue, pooling=settings.pooling)
        stack.callback(embedder.close)
        return Served(settings, None, embedder, None, Metrics(None), lifecycle)
    check_runs_here(artifact)
    runner = stack.enter_context(
        Runner.from_artifact(
            artifact, threads=loading.threads, slots=loading.slots, queue=loading.queue, graphs=loading.graphs
        )
    )
    runner.defaults.warn()
    runner.prompt_lookup = loading.prompt_lookup or default_lookup(runner.defaults)
    chat = ChatFormat(runner.tokenizer) if runner.tokenizer.chat_template else None
    compiler = Compiler(runner.tokenizer, runner.session.vocab_size, runner.defaults.stop_ids)
    served = Served(settings, runner, None, chat, Metrics(runner.engine.statistics), lifecycle, compiler)
    stack.callback(served.close)
    return served


def check_served(artifact: Artifact) -> None:
    """Raise unless an artifact answers requests.

    Raises:
        ArtifactError: Its head is neither for text nor for vectors.
    """
    spec = artifact.spec
    if not (spec.head.is_causal_lm or spec.head.kind == HIDDEN_STATES):
        raise ArtifactError(
            f"{artifact.folder} holds an {spec.architecture}, which is not served; run: exaone-export predict."
        )


def listen(settings: Settings) -> socket.socket:
    """A socket on the address, which is taken before the model is loaded.

    Raises:
        UnsupportedOptionError: It cannot be listened on.
    """
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        every = settings.host == "::" and socket.has_dualstack_ipv6()  # of either family, as other servers take it
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048, dualstack_ipv6=every)
    except (OSError, TypeError) as cause:  # the latter of a text that cannot be the name of a host
        reason = getattr(cause, "strerror", None) or cause
        raise UnsupportedOptionError(
            f"{settings.host:.100}, port {settings.port}, cannot be listened on ({reason}); choose another with --host "
            f"and --port."
        ) from cause
