"""What one cell of one server gave."""

from __future__ import annotations

import statistics

import msgspec

Request = tuple[str, int, int, str]  # kind, begin and end in nanoseconds of the wall clock, error


class Kind(msgspec.Struct):
    """Requests of one kind: GET, PUT, … Times in milliseconds."""

    requests: int
    p50_ms: float
    p99_ms: float


class Outcome(msgspec.Struct):
    """CPU times are of the timed phase alone, in microseconds a request; sizes in bytes. ``server_errors``: answers of 5xx that the server
    counted from its start to its end, ``None`` if it counts none. ``watched``: what else it counted in that time, ``timed``: in the timed
    phase, empty if nobody looked. ``lag_ms``: the loop lag that one in a thousand samples was above, 0 of a server that has no such metric.
    ``figures``: what only this kind of cell has, by name.
    """

    requests: int = 0
    seconds: float = 0.0
    per_second: float = 0.0
    median_per_second: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    server_us: float = 0.0
    client_us: float = 0.0
    kinds: dict[str, Kind] = {}
    errors: int = 0
    first_errors: list[str] = []
    server_errors: int | None = None
    rss_idle: int = 0
    rss_peak: int = 0
    disk_bytes: int = 0
    stored_bytes: int = 0
    ready_seconds: float = 0.0
    trouble: str = ""
    watched: dict[str, float] = {}
    timed: dict[str, float] = {}
    lag_ms: float = 0.0
    figures: dict[str, float] = {}
    server_command: str = ""
    client_command: str = ""
    context: dict[str, str] = {}

    @property
    def is_sound(self) -> bool:
        """Whether its figures are ones."""
        return not self.trouble and self.requests > 0 and self.errors == 0 and not self.server_errors


def summed(requests: list[Request], server_seconds: float, client_seconds: float) -> Outcome:
    """The figures of the timed phase: rate over all of it, latencies of what succeeded."""
    good = [request for request in requests if not request[3]]
    bad = [request for request in requests if request[3]]
    if not good:
        return Outcome(errors=len(bad), first_errors=[request[3] for request in bad[:3]], trouble="no request succeeded")
    begin, end = span(requests)
    seconds = max(1e-9, (end - begin) / 1e9)
    kinds = {}
    for kind in sorted({request[0] for request in good}):
        times = [request[2] - request[1] for request in good if request[0] == kind]
        kinds[kind] = Kind(len(times), percentile(times, 50), percentile(times, 99))
    times = [request[2] - request[1] for request in good]
    whole = [0] * int(seconds)
    for request in good:
        at = (request[2] - begin) // 1_000_000_000
        if at < len(whole):
            whole[at] += 1
    return Outcome(
        requests=len(good), seconds=seconds, per_second=len(good) / seconds,
        median_per_second=float(statistics.median(whole)) if whole else len(good) / seconds,
        p50_ms=percentile(times, 50), p99_ms=percentile(times, 99),
        server_us=server_seconds / len(good) * 1e6, client_us=client_seconds / len(good) * 1e6, kinds=kinds,
        errors=len(bad), first_errors=[request[3] for request in bad[:3]],
    )  # fmt: skip


def span(requests: list[Request]) -> tuple[int, int]:
    """From the first begin to the last end."""
    return min(request[1] for request in requests), max(request[2] for request in requests)


def percentile(nanoseconds: list[int], share: int) -> float:
    """Nearest rank, in milliseconds."""
    ranked = sorted(nanoseconds)
    return ranked[min(len(ranked) - 1, len(ranked) * share // 100)] / 1e6
