"""What /metrics tells Prometheus: the API's own times, and the core's figures at the moment asked.

The core sends its gauges and counters with every step; they are read when somebody asks, so a step
costs nothing here. Histograms are filled once a request, not once a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from engine.core.messages import Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

REQUEST_BUCKETS = (0.05, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TPOT_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)

STAGE_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 5.0, 30.0, 120.0)

Family = GaugeMetricFamily | CounterMetricFamily


class Metrics:
    """One registry for one engine.

    stats: gives the core's newest figures, None before any. api: gives gauges of the API process.
    """

    def __init__(
        self,
        stats: Callable[[], Stats | None],
        api: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_CoreFigures(stats))
        if api:
            self.registry.register(_ApiFigures(api))
        self._stages = Histogram(
            "autoglm_stage_seconds",
            "Time of one request in one stage",
            ("stage",),
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self._requests = Histogram(
            "api_request_duration_seconds",
            "Time from a request's arrival to the end of its answer",
            ("path", "status"),
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._ttft = Histogram(
            "autoglm_ttft_seconds",
            "Time to the first token",
            buckets=TTFT_BUCKETS,
            registry=self.registry,
        )
        self._tpot = Histogram(
            "autoglm_tpot_seconds",
            "Time per output token after the first",
            buckets=TPOT_BUCKETS,
            registry=self.registry,
        )

    def observe_request(self, path: str, status: int, duration_s: float) -> None:
        """path: the route's own, never what a client made up."""
        self._requests.labels(path, str(status)).observe(duration_s)

    def observe_generation(self, ttft_s: float | None, tpot_s: float | None) -> None:
        if ttft_s is not None:
            self._ttft.observe(ttft_s)
        if tpot_s is not None:
            self._tpot.observe(tpot_s)

    def observe_stages(self, stages: Iterable[tuple[str, float]]) -> None:
        for name, seconds in stages:
            self._stages.labels(name).observe(seconds)

    def render(self) -> bytes:
        """The Prometheus text."""
        return generate_latest(self.registry)


class _ApiFigures(Collector):
    """What must go back to where it was when nobody asks any more."""

    def __init__(self, figures: Callable[[], Mapping[str, int]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Family]:
        for name, value in self._figures().items():
            help_text = f"{name.capitalize().replace('_', ' ')} of the API process"
            yield GaugeMetricFamily(f"autoglm_api_{name}", help_text, value=value)


class _CoreFigures(Collector):
    def __init__(self, stats: Callable[[], Stats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Family]:
        stats = self._stats()
        if stats is None:
            return
        for name, help_text, value in (
            ("requests_running", "Requests in the current batch", stats.running),
            ("requests_waiting", "Requests that wait for room", stats.waiting),
            ("kv_blocks_used", "KV blocks held by requests", stats.blocks_used),
            ("kv_blocks_total", "KV blocks of the cache", stats.blocks_total),
        ):
            yield GaugeMetricFamily(f"autoglm_{name}", help_text, value=value)
        for name, help_text, value in (
            ("steps", "Engine steps", stats.steps),
            ("generated_tokens", "Tokens made", stats.generated_tokens),
            ("prompt_tokens", "Prompt tokens of admitted requests", stats.prompt_tokens),
            ("prefix_cached_tokens", "Prompt tokens from the prefix cache", stats.cached_tokens),
            ("preemptions", "Requests set back for lack of KV blocks", stats.preemptions),
            ("refused_requests", "Requests refused because too many wait", stats.refused),
            ("expired_requests", "Requests that ran out of their time", stats.expired),
        ):
            yield CounterMetricFamily(f"autoglm_{name}", help_text, value=value)
