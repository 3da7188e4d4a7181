"""The Ray Serve application of an artifact: an ingress, and replicas behind it.

A config file of Ray Serve, such as that of a KubeRay ``RayService``, names `build`.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from exaone_export.errors import UnsupportedOptionError
from exaone_export.files.records import Count, Record, Size, one_of, read_record
from exaone_export.model.heads import POOLINGS

from ...sessions.prefill.choice import GraphChoice
from ..loading import Loading
from ..settings import KEY_VARIABLE, Settings
from ..transport.security import check_keys, read_api_keys
from .ingress import Ingress
from .replica import Replica

__all__ = ["Config", "Replicas", "build", "make_application"]

_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_ANYWHERE = "0.0.0.0"
_HEALTH_SECONDS = 5
_MOST_REQUESTS = 10_000
_MOST_WAITING = 1 << 20
_Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Replicas(Record, frozen=True, kw_only=True):
    """What is run, and how often.

    Attributes:
        artifact: A folder that every machine has, or an artifact on the Hugging Face hub.
        trusted_key: The file of the public key that must have signed it.
        slots: Answers that a replica generates at once.
        queue: Requests that may wait at the ingress.
        threads: Threads that one operator may use: CPUs that a replica claims.
        gpus: GPUs that a replica claims.
        prefill_graph: Of a graph of its own for prompts, whether it is loaded.
        prefill_threshold: Rows times tokens of a step from which on that graph runs it; the artifact's by default.
        batch_graph: Whether it also runs steps of one token each of many rows.
        prompt_lookup: How many tokens are guessed, ``"auto"`` or ``"off"``.
        replicas: The fewest.
        max_replicas: The most; they are started when more requests are under way than there are slots.
    """

    artifact: str
    trusted_key: str | None = None
    slots: Count = Loading.slots
    queue: Count = Loading.queue
    threads: Count = 1
    gpus: Size = 0
    prefill_graph: bool = True
    prefill_threshold: Count | None = None
    batch_graph: bool = False
    prompt_lookup: Count | Literal["auto", "off"] | None = None
    replicas: Count = 2
    max_replicas: Count | None = None

    def __post_init__(self) -> None:
        if self.most < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, and replicas is {self.replicas}")

    @property
    def most(self) -> int:
        """The most that run at once."""
        return self.max_replicas or self.replicas

    @property
    def loading(self) -> Loading:
        """What a replica does; the ingress's queue is the one that is bounded."""
        graphs = GraphChoice(self.prefill_graph, self.prefill_threshold, self.batch_graph)
        return Loading(self.slots, _MOST_WAITING, self.threads, graphs, self.prompt_lookup)


class Config(Replicas, frozen=True, kw_only=True):
    """The ``args`` of a config file: those of `Replicas`, and these.

    Attributes:
        api_key_file: The file of API keys, one a line; by default the key in ``EXAONE_EXPORT_API_KEY``. Without one,
            only the machine itself may use the server.
        model_name: As of `exaone_export.runtime.serve.settings.Settings`, and so are those below; the name of the
            artifact's folder by default.
        allow_origins: As there.
        max_body_bytes: As there.
        max_prompt_tokens: As there.
        request_seconds: As there.
        grace_seconds: As there.
        pooling: As there.
        log_json: As there.
    """

    api_key_file: str | None = None
    model_name: str | None = None
    allow_origins: tuple[str, ...] = Settings.allow_origins
    max_body_bytes: Count = Settings.max_body_bytes
    max_prompt_tokens: Count | None = Settings.max_prompt_tokens
    request_seconds: _Seconds = Settings.request_seconds
    grace_seconds: _Seconds = Settings.grace_seconds
    pooling: Annotated[str, one_of(POOLINGS)] = Settings.pooling
    log_json: bool = Settings.log_json


def make_application(replicas: Replicas, settings: Settings) -> Application:
    """The application.

    Args:
        replicas: What they run.
        settings: Of the ingress; replicas can be called by it alone, and have no keys.
    """
    scaled: dict[str, Any] = {"num_replicas": replicas.replicas}
    if replicas.most > replicas.replicas:
        limits = {"min_replicas": replicas.replicas, "max_replicas": replicas.most}
        scaled = {"autoscaling_config": AutoscalingConfig(**limits, target_ongoing_requests=replicas.slots)}
    model = serve.deployment(
        Replica,
        name="replica",
        ray_actor_options={"num_cpus": replicas.threads, "num_gpus": replicas.gpus},
        # One more than there are slots waits at a replica, so that no slot waits for the ingress; what its replica has
        # no room for goes to another one.
        max_ongoing_requests=replicas.slots + 1,
        max_queued_requests=replicas.queue,
        graceful_shutdown_timeout_s=settings.grace_seconds,
        health_check_period_s=_HEALTH_SECONDS,
        request_router_config=RequestRouterConfig(
            request_router_class=_ROUTER, request_router_kwargs={"num_fallback_replicas": replicas.most}
        ),
        **scaled,
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_MOST_REQUESTS,
        graceful_shutdown_timeout_s=settings.grace_seconds,
    )
    inside = dataclasses.replace(settings, host="127.0.0.1", api_keys=(), allow_origins=())
    bound = model.bind(replicas.artifact, replicas.trusted_key, inside, replicas.loading)
    application: Application = ingress.bind(bound, settings)
    return application


def build(args: dict[str, Any]) -> Application:
    """The application that a config file of Ray Serve describes.

    Args:
        args: By the names of `Config`.

    Raises:
        KeyFileError: The file of API keys cannot be used.
        UnsupportedOptionError: An argument is unknown or out of range.
    """
    config = read_record(args, Config, name="args", fix="correct the config file", error=UnsupportedOptionError)
    shared = {name: getattr(config, name) for name in Settings.__dataclass_fields__ if hasattr(config, name)}
    shared["model_name"] = Path(config.artifact).name if config.model_name is None else config.model_name
    if config.api_key_file is not None:
        shared |= {"host": _ANYWHERE, "api_keys": read_api_keys(Path(config.api_key_file))}
    elif (key := os.environ.get(KEY_VARIABLE)) is not None:
        shared |= {"host": _ANYWHERE, "api_keys": check_keys((key,), KEY_VARIABLE)}
    return make_application(config, Settings(**shared))
