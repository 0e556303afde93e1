"""``titanctl info`` and ``titanctl service``: the server as a whole."""

from __future__ import annotations

from typing import Any

import click

from titans3.ctl.quantity import shown_seconds, shown_size
from titans3.ctl.session import Session, remote


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
@remote
def restart(session: Session) -> None:
    """Replace every worker process by a new one, one after the other, without a failed request."""
    session.client.admin("POST", "/service/restart")
    session.done("the workers are replaced one after the other", ordered="restart")


@service.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def stop(session: Session, yes: bool) -> None:
    """Finish what is in flight, then stop."""
    session.confirm("Stop the server?", yes=yes)
    session.client.admin("POST", "/service/stop")
    session.done("the server stops when what is in flight is done", ordered="stop")
