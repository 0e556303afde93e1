"""``titanctl info`` and ``titanctl service``: the server as a whole."""

from __future__ import annotations

import time
from typing import Any

import click

from titans3.ctl.quantity import shown_seconds, shown_size
from titans3.ctl.session import Session, remote
from titans3.errors import TitanError

_POLL_SECONDS = 0.25
_STILL_SECONDS = 30.0  # a new process is there within some seconds; while an old one drains, not all serve


@click.command()
@remote
def info(session: Session) -> int:
    """What may fail, and how the server is. Exit code 1 if something is not as it should be."""
    found = session.client.admin("GET", "/info")
    if session.as_json:
        session.show(found)
        return 0 if found["healthy"] else 1
    tolerance = found["tolerance"]
    click.echo(f"tolerance  {tolerance['text']}")
    state = "healthy" if found["healthy"] else click.style("NOT HEALTHY", fg="red", bold=True)
    click.echo(
        f"server     TitanS3 {found['version']}, {state}, up {shown_seconds(found['uptime_seconds'])}, region {found['region']}"
    )
    click.echo(
        f"           {found['buckets']} buckets, {found['accounts']} accounts, feature level {found['feature_level']}"
    )
    click.echo(f"cluster    {found['cluster']}\n")
    session.show_list(
        found["workers"], ("worker", "pid", "state", "connections", "requests", "client_errors", "server_errors")
    )
    click.echo()
    session.show_table(
        [_volume(row) for row in found["volumes"]], ("volume", "state", "worker", "live", "dead", "log", "free", "cause")
    )
    return 0 if found["healthy"] else 1


def _volume(row: dict[str, Any]) -> tuple[str, ...]:
    sizes = (shown_size(row[f"{name}_bytes"]) for name in ("live", "dead", "log", "free"))
    return (str(row["volume"]), row["state"], str(row["worker"]), *sizes, row["cause"])


@click.group()
def service() -> None:
    """Restart or stop the server."""


@service.command()
@click.option("--no-wait", is_flag=True, help="Do not wait until it is done, which asks for titans3:ServerInfo as well.")
@click.option("--timeout", default=600.0, show_default=True, metavar="SECONDS", help="How long to wait; then exit code 1.")
@remote
def restart(session: Session, no_wait: bool, timeout: float) -> None:
    """Replace every worker process by a new one, one after the other, without a failed request."""
    if no_wait:
        session.client.admin("POST", "/service/restart")
        session.done("the workers are replaced one after the other", ordered="restart")
        return
    before = _workers(session)
    session.client.admin("POST", "/service/restart")
    _wait_until_new(session, before, timeout)
    session.done(f"{len(before)} workers are new and serve", ordered="restart", workers=len(before))


def _wait_until_new(session: Session, before: dict[int, tuple[int, str]], timeout: float) -> None:
    """Raises TitanError when the time is over, or when nothing happens any more: it ended early, or another one was under way."""
    begin = changed = time.monotonic()
    last = before
    while True:
        now = _workers(session)
        old = [str(worker) for worker, (pid, _) in before.items() if now[worker][0] == pid]
        is_whole = all(state == "serving" for _, state in now.values())
        if is_whole and not old:
            return
        moment = time.monotonic()
        if now != last or not is_whole:
            last, changed = now, moment
        if moment - begin > timeout:
            raise TitanError(f"after {timeout:g} s it is not done; titanctl info shows how far it is, the server's log why")
        if moment - changed > _STILL_SECONDS:
            raise TitanError(
                f"nothing has happened for {_STILL_SECONDS:g} s, and worker {', '.join(old)} is the process it was: the restart "
                "ended early (the server's log says why), or another one was under way"
            )
        time.sleep(_POLL_SECONDS)


def _workers(session: Session) -> dict[int, tuple[int, str]]:
    """Process and state of each worker."""
    return {row["worker"]: (row["pid"], row["state"]) for row in session.client.admin("GET", "/info")["workers"]}


@service.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def stop(session: Session, yes: bool) -> None:
    """Finish what is in flight, then stop."""
    session.confirm("Stop the server?", yes=yes)
    session.client.admin("POST", "/service/stop")
    session.done("the server stops when what is in flight is done", ordered="stop")
