"""Each replica's own figures in /metrics, by its number; the plain figures are the sums."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from engine.api.core_link import Phase
from engine.api.replicas import Replicas, Seat

Family = GaugeMetricFamily | CounterMetricFamily

_PREFIX = "autoglm_replica_"


class ReplicaFigures(Collector):
    """Nothing for a single replica."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    def collect(self) -> Iterator[Family]:
        seats = self._replicas.seats
        if len(seats) == 1:
            return
        for name, help_text in (
            ("up", "Whether the replica takes requests"),
            ("requests_open", "Requests that the replica has not answered yet"),
            ("requests_running", "Requests in the replica's current batch"),
            ("kv_blocks_used", "KV blocks held by the replica's requests"),
        ):
            gauge = GaugeMetricFamily(_PREFIX + name, help_text, labels=["replica"])
            yield _fill(gauge, name, seats)
        for name, help_text in (
            ("restarts", "Cores that ended and were started again"),
            ("generated_tokens", "Tokens made by the replica"),
            ("prefix_cached_tokens", "Prompt tokens from the replica's prefix cache"),
        ):
            counter = CounterMetricFamily(_PREFIX + name, help_text, labels=["replica"])
            yield _fill(counter, name, seats)


def _fill(family: Family, name: str, seats: list[Seat]) -> Family:
    for index, seat in enumerate(seats):
        family.add_metric([str(index)], _figures(seat)[name])
    return family


def _figures(seat: Seat) -> dict[str, int]:
    stats, link = seat.stats, seat.link
    return {
        "up": int(link.phase is Phase.READY),
        "requests_open": link.num_open,
        "requests_running": stats.running if stats else 0,
        "kv_blocks_used": stats.blocks_used if stats else 0,
        "restarts": seat.restarts,
        "generated_tokens": stats.generated_tokens if stats else 0,
        "prefix_cached_tokens": stats.cached_tokens if stats else 0,
    }
