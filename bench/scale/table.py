"""The page of a run: for each curve what was done, a table, and what its figures mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.peers import lag
from bench.peers.matrix import size_bytes
from bench.peers.table import DASH, figure
from bench.scale.bucket import BODY_BYTES
from bench.scale.curve import Curve

MIB = 1 << 20
TITLES = {
    "workers": "Workers", "objects": "Objects in one bucket", "idle": "Idle connections", "concurrency": "Requests in flight",
    "sizes": "Size of objects",
}  # fmt: skip
OPERATIONS = {
    "get": "GET", "put": "PUT", "get-any": "GET of any", "list": "LIST of 1,000", "delete": "DELETE", "restart": "after `kill -9`",
}  # fmt: skip
RATED = ("get", "get-any", "list", "put", "delete")
Shown = Callable[[int, str], str]


def short(number: int) -> str:
    """10k, 1m."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size and number % size == 0:
            return f"{number // size:,} {letter}".replace(" k", "k").replace(" M", "M")
    return f"{number:,}"


def size_of(number: int) -> str:
    """1 KiB, 5 GiB."""
    for letter in "gmk":
        unit = size_bytes(f"1{letter}")
        if number >= unit and number % unit == 0:
            return f"{number // unit:,} {letter.upper()}iB"
    return f"{number:,} B"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in (heads, *rows)]
    return "\n".join([lines[0].replace("|  |", "| |"), "|---" * len(heads) + "|", *lines[1:]])


def _value(curve: Curve, at: int, operation: str, field: str, scale: float = 1.0) -> str:
    found = curve.median(at, operation)
    shown = found.note or figure(getattr(found, field) * scale)
    return f"{shown} ({found.but})" if found.but and field == "per_second" else shown


def _mebibytes(value: float | None) -> str:
    return DASH if value is None else f"{value / MIB:,.0f}"


def _late(value: float) -> str:
    return f"≤ {value:g}" if value else DASH


def rates(curve: Curve, head: str, named: Callable[[int], str]) -> str:
    """GET and PUT by point."""
    heads = [head, *(f"{OPERATIONS[each]} {what}" for each in ("get", "put") for what in ("/s", "p50 ms", "p99 ms", "server µs"))]
    rows = []
    for at in curve.points:
        cells = [
            _value(curve, at, each, field) for each in ("get", "put") for field in ("per_second", "p50_ms", "p99_ms", "server_us")
        ]  # fmt: skip
        rows.append([named(at), *cells, _late(curve.lag_ms(at))])
    return _table([*heads, "lag p99.9 ms"], rows)


def sizes(curve: Curve) -> str:
    """Bytes a second and memory."""
    heads = ["size", *(f"{OPERATIONS[each]} {what}" for each in ("get", "put") for what in ("MB/s", "/s", "p50 ms", "memory MiB"))]
    rows = []
    for at in curve.points:
        row = [size_of(at)]
        for each in ("get", "put"):
            found = curve.median(at, each)
            row += [
                _value(curve, at, each, "per_second", at / 1e6), _value(curve, at, each, "per_second"), _value(curve, at, each, "p50_ms"),
                found.note or f"{found.rss_idle / MIB:,.0f} → {found.rss_peak / MIB:,.0f}",
            ]  # fmt: skip
        rows.append([*row, _late(curve.lag_ms(at))])
    return _table([*heads, "lag p99.9 ms"], rows)


def idle(curve: Curve) -> str:
    """Memory of the whole server."""
    heads = ["idle", "server MiB", "without them", "KiB each", "beside GET MiB", "GET /s beside them", "p50 ms", "p99 ms", "lag p99.9 ms"]
    rows = []
    for at in curve.points:
        before, held = curve.figure(at, "before_bytes"), curve.figure(at, "with_bytes")
        more = 0.0 if before is None or held is None else held - before
        each = f"{more / at / 1024:.1f}" if more > MIB else DASH  # less is the noise of two looks
        values = [_value(curve, at, "get", field) for field in ("per_second", "p50_ms", "p99_ms")]
        rows.append(
            [f"{at:,}", _mebibytes(held), _mebibytes(before), each, _mebibytes(curve.figure(at, "server_bytes")), *values,
             _late(curve.lag_ms(at))]
        )  # fmt: skip
    return _table(heads, rows)


def objects(curve: Curve) -> str:
    """Rates as shares of the first point's; then what the objects take and cost."""
    rows = []
    for operation in RATED:
        first = curve.median(curve.points[0], operation)
        for at in curve.points:
            found = curve.median(at, operation)
            share = DASH if found.note or first.note else f"{found.per_second / first.per_second:.0%}"
            values = [_value(curve, at, operation, field) for field in ("p50_ms", "p99_ms", "server_us")]
            rate = _value(curve, at, operation, "per_second")
            rows.append([OPERATIONS[operation], short(at), rate, share, *values, _late(curve.lag_ms(at, operation))])
    heads = ["", "objects", "/s", f"of {short(curve.points[0])}", "p50 ms", "p99 ms", "server µs", "lag p99.9 ms"]
    return _table(heads, rows) + "\n\n" + _weights(curve)


def _weights(curve: Curve) -> str:
    heads = [
        "objects", "ready after `kill -9`, s", "entries replayed", "worker: own MiB", "worker: mapped MiB", "metadata B/object",
        "live B/object", "disk B/object",
    ]  # fmt: skip
    rows = []
    for at in curve.points:
        restart = curve.median(at, "restart")
        replayed = curve.figure(at, "recovery_replayed", "restart")
        each = [curve.figure(at, name) for name in ("metadata_bytes", "live_bytes", "disk_bytes")]
        rows.append(
            [short(at), restart.note or f"{restart.ready_seconds:.2f}", DASH if replayed is None else f"{replayed:,.0f}",
             _mebibytes(curve.figure(at, "worker_own_bytes")), _mebibytes(curve.figure(at, "worker_file_bytes")),
             *(DASH if value is None else f"{value / at:,.0f}" for value in each)]
        )  # fmt: skip
    return _table(heads, rows)


def part(curve: Curve, lanes: int, workers: str) -> list[str]:
    """Heading, what was done, tables."""
    head = f"### {TITLES[curve.name]}"
    if curve.name == "workers":
        return [head, f"4 KiB, {lanes} in flight.", rates(curve, "workers", str)]
    if curve.name == "concurrency":
        return [head, f"4 KiB, {workers}.", rates(curve, "in flight", str)]
    if curve.name == "idle":
        said = f"{workers}, GET of 4 KiB, {lanes} in flight. Memory: each page counted once, without the kernel's for sockets."
        return [head, said, idle(curve)]
    if curve.name == "sizes":
        said = f"{workers}, {lanes} in flight. Memory: the sum of all processes when idle → the sum of the most that each had."
        return [head, said, sizes(curve)]
    said = (
        f"Bodies of {BODY_BYTES} bytes, {workers}, {lanes} in flight. *GET* is of 10,000 objects in turn, *GET of any* of all over the "
        f"bucket, each once. *Own* is the most that a worker has for itself, *mapped* are pages of files in the page cache, mostly the "
        f"B-tree's, which the kernel takes back when it needs room. *Metadata* is the B-tree's file, *live* the live bytes of all "
        f"segments, *disk* the whole folder with what is allocated ahead."
    )
    return [head, said, objects(curve)]


def page(
    curves: Sequence[Curve], lanes: Mapping[str, int], workers: str, described: Mapping[str, str], shown: str, command: str, rounds: int
) -> str:
    """Markdown."""
    parts = [
        f"The client is the replayer of pre-signed requests (`bench/replay.py`, bodies unhashed), beside the server. {rounds} "
        f"round{'s' * (rounds != 1)}, medians. *Server µs* is CPU of all processes of the server a request. *Lag* is how late the event "
        f"loops were, p99.9 of ten samples a second and worker: at most that.",
        *(text for curve in curves for text in part(curve, lanes.get(curve.name, 0), workers)),
    ]  # fmt: skip
    every = lag.together(outcome.watched for curve in curves for *_, outcome in curve.all())
    if every:
        parts.append(f"Loop lag over all of it: p99.9 at most {lag.milliseconds(every):g} ms, of {max(every.values()):,.0f} samples.")
    parts.append(_troubles(curves))
    parts.append(f"TitanS3: {shown}.")
    parts.append(
        f"Machine: {described['cpu']}, server on processors {described['server_cpus']}, client on {described['client_cpus']}, "
        f"Linux {described['kernel']}, {described['disk']}."
    )
    return "\n\n".join(text for text in [*parts, f"```sh\n{command}\n```"] if text) + "\n"


def _troubles(curves: Sequence[Curve]) -> str:
    lines = []
    for curve in curves:
        for at, operation, number, outcome in curve.all():
            said = outcome.trouble or "; ".join(outcome.first_errors) or (f"{outcome.server_errors} × 5xx" if outcome.server_errors else "")
            if said:
                text = said.strip().splitlines()[-1][:300].replace("|", "/")
                lines.append(f"* {TITLES[curve.name]} {at:,}, {OPERATIONS[operation]}, round {number + 1}: {text}")
    return "Not as it should be:\n\n" + "\n".join(lines) if lines else ""
