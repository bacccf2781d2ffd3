"""How far a fetch is: bytes, speed and time left, said at most four times a second."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

SPEED_WINDOW_S = 5.0
REPORT_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a stage. detail: `12 of 98 MB, 31 MB/s, 3 s left`. total_bytes 0: not known."""

    stage: str
    done_bytes: int
    total_bytes: int
    detail: str
    share: float | None = None

    @property
    def fraction(self) -> float:
        """0 … 1."""
        if self.share is not None:
            return self.share
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes else 0.0


Report = Callable[[Progress], None]


def within(report: Report, first: float, last: float) -> Report:
    """A report for one part of the work, whose 0 … 1 is `first` … `last` of the whole."""
    return lambda progress: report(
        replace(progress, share=first + (last - first) * progress.fraction)
    )


class Pace:
    """Counts bytes from any thread and reports progress with the speed of the last seconds."""

    def __init__(
        self,
        stage: str,
        total_bytes: int,
        report: Report,
        *,
        done_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done_bytes = done_bytes
        self._stage, self._total, self._report, self._clock = stage, total_bytes, report, clock
        self._seen: deque[tuple[float, int]] = deque([(clock(), done_bytes)])
        self._reported_at = float("-inf")
        self._lock = threading.Lock()

    def add(self, num_bytes: int) -> None:
        """Count bytes that arrived; a negative number takes back what had to be thrown away."""
        self._moved(self.done_bytes + num_bytes, added=num_bytes)

    def at(self, done_bytes: int) -> None:
        """Set the count, where somebody else does the fetching."""
        self._moved(done_bytes)

    def _moved(self, done_bytes: int, added: int | None = None) -> None:
        with self._lock:
            self.done_bytes = done_bytes if added is None else self.done_bytes + added
            now = self._clock()
            self._seen.append((now, self.done_bytes))
            while now - self._seen[0][0] > SPEED_WINDOW_S and len(self._seen) > 2:
                self._seen.popleft()
            if now - self._reported_at < REPORT_EVERY_S:
                return
            self._reported_at = now
            self._report(self.progress())

    def progress(self) -> Progress:
        (then, before), (now, done) = self._seen[0], self._seen[-1]
        speed = (done - before) / (now - then) if now > then else 0.0
        return Progress(self._stage, done, self._total, describe(done, self._total, speed))


def describe(done_bytes: int, total_bytes: int, bytes_per_s: float) -> str:
    """Progress in words, in one unit for both numbers: `1.2 of 15.2 GB, 31 MB/s, 7 min left`."""
    unit, size = ("GB", 1e9) if total_bytes >= 1e9 else ("MB", 1e6)
    digits = 1 if unit == "GB" else 0
    text = f"{done_bytes / size:.{digits}f} of {total_bytes / size:.{digits}f} {unit}"
    if bytes_per_s < 1e3:
        return text
    left_s = max(0.0, (total_bytes - done_bytes) / bytes_per_s)
    speed = (
        f"{bytes_per_s / 1e6:.0f} MB/s" if bytes_per_s >= 1e6 else f"{bytes_per_s / 1e3:.0f} kB/s"
    )
    return f"{text}, {speed}, {_duration(left_s)} left"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
