"""What Prometheus reads."""

from __future__ import annotations

from engine.core.messages import Stats
from engine.metrics import Metrics


def _lines(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.render().decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_before_the_core_has_told_anything_its_figures_are_left_out() -> None:
    assert not any(name.startswith("autoglm_kv") for name in _lines(Metrics(lambda: None)))


def test_the_cores_figures_are_those_of_the_moment_asked() -> None:
    stats = [Stats(1, 2, 3, 16, 5, 60, 70, 8, 9)]
    metrics = Metrics(lambda: stats[0])
    lines = _lines(metrics)
    assert lines["autoglm_requests_running"] == 1
    assert lines["autoglm_requests_waiting"] == 2
    assert lines["autoglm_kv_blocks_used"] == 3
    assert lines["autoglm_kv_blocks_total"] == 16
    assert lines["autoglm_prompt_tokens_total"] == 60
    assert lines["autoglm_generated_tokens_total"] == 70
    assert lines["autoglm_prefix_cached_tokens_total"] == 8
    assert lines["autoglm_preemptions_total"] == 9
    stats[0] = Stats(0, 0, 0, 16, 6, 60, 71, 8, 9)
    assert _lines(metrics)["autoglm_generated_tokens_total"] == 71


def test_durations_fall_into_the_promised_buckets() -> None:
    metrics = Metrics(lambda: None)
    metrics.observe_request("/v1/models", 200, 0.2)
    metrics.observe_generation(0.03, None)
    lines = _lines(metrics)
    name = 'api_request_duration_seconds_bucket{le="%s",path="/v1/models",status="200"}'
    assert [lines[name % edge] for edge in ("0.1", "0.3", "0.5", "1.0")] == [0, 1, 1, 1]
    assert lines["autoglm_ttft_seconds_count"] == 1
    assert lines["autoglm_tpot_seconds_count"] == 0
