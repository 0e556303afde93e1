"""``titanctl trace``, ``titanctl top`` and ``titanctl logs``: what the server does right now.

Invariant: a stream ends with Ctrl-C, after ``--for``, or with the server; what is gathered for tables is bounded by the kinds of requests.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import click

from titans3.clock import SystemClock
from titans3.ctl.quantity import DURATION, shown_size
from titans3.ctl.session import Session, cell, is_coloured, remote

_CLEAR = "\x1b[H\x1b[2J"


class Milliseconds(click.ParamType[float]):
    """``100ms``, ``1.5s``: milliseconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        try:
            if text.endswith("ms"):
                return float(text[:-2])
            return float(text.removesuffix("s")) * 1000
        except ValueError:
            self.fail(f"{value} is no time, as 100ms or 1.5s", param, ctx)


class Totals:
    """Requests of one kind."""

    def __init__(self) -> None:
        self.count = self.errors = self.received = self.sent = 0
        self.milliseconds = self.longest = 0.0

    def add(self, event: dict[str, Any]) -> None:
        """One more."""
        self.count += 1
        self.errors += event["status"] >= 400 or not event["status"]
        self.received += event["received"]
        self.sent += event["sent"]
        self.milliseconds += event["milliseconds"]
        self.longest = max(self.longest, event["milliseconds"])


@click.command()
@click.option("--operation", "-o", multiple=True, metavar="NAME", help="Only this operation, as PutObject. Can be repeated.")
@click.option("--status", "-s", metavar="CODE", help="Only this status, as 404, or class, as 5xx.")
@click.option("--path", "-p", metavar="TEXT", help="Only paths with this text.")
@click.option("--longer", type=Milliseconds(), metavar="TIME", help="Only requests that took at least this, as 100ms.")
@click.option("--errors", is_flag=True, help="Only requests that failed.")
@click.option("--stats", is_flag=True, help="No lines; at the end a table by operation.")
@click.option("--for", "seconds", type=DURATION, metavar="DURATION", help="Stop after this.")
@remote
def trace(
    session: Session, operation: tuple[str, ...], status: str | None, path: str | None, longer: float | None, errors: bool, stats: bool,
    seconds: int | None,
) -> None:  # fmt: skip
    """Show requests of the whole server as they are answered, until Ctrl-C. It costs the server nothing when nobody looks."""
    given = {"operation": ",".join(operation), "status": status or "", "path": path or "", "errors": "true" if errors else ""}
    query = {name: value for name, value in given.items() if value}
    if longer is not None:
        query["least_milliseconds"] = f"{longer:.3f}"
    totals: dict[str, Totals] = {}
    clock = SystemClock()
    begin = clock.monotonic()
    try:
        for event in _events(session, "/trace", query, seconds):
            if "lost" in event:
                click.echo(f"{event['lost']} more came than could be shown", err=True)
            elif stats:
                totals.setdefault(event["operation"] or "-", Totals()).add(event)
            else:
                click.echo(json.dumps(event, ensure_ascii=False) if session.as_json else _line(event))
    except KeyboardInterrupt:
        if not stats:
            raise
    if stats:
        _show(session, totals, clock.monotonic() - begin)


@click.command()
@click.option("--every", type=DURATION, default=2, show_default="2s", metavar="DURATION", help="How often the table is made anew.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Stop after so many tables.")
@remote
def top(session: Session, every: int, count: int | None) -> None:
    """Show which operations the server is busy with, again and again, until Ctrl-C."""
    shown = 0
    clock = SystemClock()
    totals: dict[str, Totals] = {}
    begin = clock.monotonic()
    for event in _events(session, "/trace", {}, None, tick=0.5):
        if event and "lost" not in event:
            totals.setdefault(event["operation"] or "-", Totals()).add(event)
        if clock.monotonic() - begin < every:
            continue
        if is_coloured() and not session.as_json:
            click.echo(_CLEAR, nl=False)
        _show(session, totals, clock.monotonic() - begin)
        shown += 1
        if count is not None and shown >= count:
            return
        totals, begin = {}, clock.monotonic()


@click.command()
@click.option("--last", "-n", type=click.IntRange(0, 1000), default=20, show_default=True, help="So many lines of before from each worker.")
@click.option("--level", type=click.Choice(["debug", "info", "warning", "error"]), help="Only lines of this level and above.")
@click.option("--for", "seconds", type=DURATION, metavar="DURATION", help="Stop after this; 0 for what is there already.")
@remote
def logs(session: Session, last: int, level: str | None, seconds: int | None) -> None:
    """Show log lines of all workers as they come, until Ctrl-C. (The supervisor's are on its standard error alone.)"""
    query = {"last": str(last)} | ({"level": level} if level else {})
    for event in _events(session, "/logs", query, seconds):
        if session.as_json:
            click.echo(json.dumps(event, ensure_ascii=False))
        elif "lost" not in event:
            request = f" request_id={event['request_id']}" if event["request_id"] else ""
            click.echo(f"{_stamp(event)} {event['level']:7} worker {event['worker']} {event['logger']}: {cell(event['message'])}{request}")


def _events(session: Session, path: str, query: dict[str, str], seconds: int | None, tick: float = 0.0) -> Iterator[dict[str, Any]]:
    """Events of a stream; with ``tick`` an empty one at least so often."""
    clock = SystemClock()
    end = None if seconds is None else clock.monotonic() + seconds
    with closing(session.client.admin_stream(path, query, 0.3 if tick or end is not None else None)) as lines:
        for line in lines:
            if line:
                yield json.loads(line)
            elif tick:
                yield {}
            if end is not None and clock.monotonic() >= end:
                return


def _line(event: dict[str, Any]) -> str:
    status = str(event["status"] or "gone")
    if is_coloured():
        colour = "green" if 0 < event["status"] < 400 else "yellow" if 400 <= event["status"] < 500 else "red"
        status = click.style(status, fg=colour)
    error = f" {event['error']}" if event["error"] else ""
    size = f"↑{shown_size(event['received'])} ↓{shown_size(event['sent'])}"
    return (
        f"{_stamp(event)} {status}{error} {event['operation'] or '-'} {event['method']} {cell(event['target'])} "
        f"{event['milliseconds']:.1f} ms {size} {event['client']}"
    )


def _stamp(event: dict[str, Any]) -> str:
    moment = event["time_ms"]
    return time.strftime("%H:%M:%S", time.localtime(moment / 1000)) + f".{moment % 1000:03d}"


def _show(session: Session, totals: dict[str, Totals], seconds: float) -> None:
    seconds = max(seconds, 0.001)
    rows: list[dict[str, Any]] = [
        {
            "operation": name, "requests": one.count, "per_second": round(one.count / seconds, 1), "errors": one.errors,
            "mean_ms": round(one.milliseconds / one.count, 2), "longest_ms": round(one.longest, 2), "received": one.received,
            "sent": one.sent,
        }
        for name, one in sorted(totals.items(), key=lambda item: -item[1].count)
    ]  # fmt: skip
    if session.as_json:
        session.show({"seconds": round(seconds, 2), "operations": rows})
        sys.stdout.flush()
        return
    shown = [row | {"received": shown_size(row["received"]), "sent": shown_size(row["sent"])} for row in rows]
    session.show_list(shown, ("operation", "requests", "per_second", "errors", "mean_ms", "longest_ms", "received", "sent"))
