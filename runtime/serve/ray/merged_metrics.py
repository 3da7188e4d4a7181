"""The numbers of all replicas in one page for Prometheus, each with the label ``replica``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["merged"]


class _Merged:
    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        found = dict[str, Metric]()
        for replica, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                into = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    into.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
        yield from found.values()


def merged(texts: Mapping[str, str]) -> bytes:
    """Pages of replicas as one.

    Args:
        texts: By the replica, in Prometheus' text format.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(texts))
    page: bytes = generate_latest(registry)
    return page
