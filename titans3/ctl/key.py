"""``titanctl key``: access keys and service accounts."""

from __future__ import annotations

import json
from typing import IO, Any

import click

from titans3.ctl.client import segment
from titans3.ctl.quantity import DURATION
from titans3.ctl.session import Session, remote
from titans3.errors import ConfigError

_COLUMNS = ("access_key", "user", "status", "is_service_account", "name", "has_policy", "expires", "last_used")


@click.group()
def key() -> None:
    """Access keys of users, and service accounts: keys that may do less than their user."""


def document(file: IO[bytes] | None) -> dict[str, Any] | None:
    """A policy of a file. Raises ConfigError."""
    if file is None:
        return None
    try:
        found = json.loads(file.read())
    except ValueError as error:
        raise ConfigError(f"{file.name} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file.name} is no policy: it must be a JSON object")
    return found


@key.command()
@click.option("--user", metavar="NAME", help="Whose; your own without it.")
@click.option("--service-account", is_flag=True, help="A key for a program; it may have a name and a policy of its own.")
@click.option("--name", default="", help="What a service account is for.")
@click.option(
    "--policy",
    type=click.File("rb"),
    metavar="FILE",
    help="What a service account may do at most: a JSON policy.",
)
@click.option("--expires", type=DURATION, default=0, metavar="DURATION", help="It ends after this, as 90d.")
@remote
def create(
    session: Session, user: str | None, service_account: bool, name: str, policy: IO[bytes] | None, expires: int
) -> None:
    """Make a key; its secret is printed this once.

    Example: titanctl key create --user alice --service-account --name backup --policy read.json --expires 90d
    """
    body: dict[str, Any] = {
        "service_account": service_account or policy is not None or bool(name),
        "name": name,
        "expires_seconds": expires,
    }
    if user is not None:
        body["user"] = user
    if policy is not None:
        body["policy"] = document(policy)
    session.show(session.client.admin("POST", "/keys", body))


@key.command()
@click.option("--user", metavar="NAME", help="Whose; your own without it.")
@click.option("--all", "everybody", is_flag=True, help="All keys of the account.")
@remote
def ls(session: Session, user: str | None, everybody: bool) -> None:
    """Keys, without their secrets."""
    query = {"all": "true"} if everybody else {} if user is None else {"user": user}
    session.show_list(session.client.admin("GET", "/keys", query=query)["items"], _COLUMNS)


@key.command()
@click.argument("access_key")
@remote
def info(session: Session, access_key: str) -> None:
    """A key: whose, until when, last used, and its policy."""
    session.show(session.client.admin("GET", f"/keys/{segment(access_key)}"))


def _change(session: Session, access_key: str, text: str, **body: Any) -> None:
    found = session.client.admin("POST", f"/keys/{segment(access_key)}", body)
    session.show(found, text)


@key.command()
@click.argument("access_key")
@remote
def enable(session: Session, access_key: str) -> None:
    """Let a key in again."""
    _change(session, access_key, f"key {access_key} is enabled", enabled=True)


@key.command()
@click.argument("access_key")
@remote
def disable(session: Session, access_key: str) -> None:
    """Refuse a key, at once and on every worker."""
    _change(session, access_key, f"key {access_key} is disabled", enabled=False)


@key.command()
@click.argument("access_key")
@click.option("--name", help="What a service account is for.")
@click.option("--policy", type=click.File("rb"), metavar="FILE", help="A new policy of a service account.")
@click.option("--no-policy", is_flag=True, help="The service account may do all that its user may.")
@click.option("--expires", type=DURATION, metavar="DURATION", help="It ends after this from now; 0 for never.")
@remote
def update(
    session: Session, access_key: str, name: str | None, policy: IO[bytes] | None, no_policy: bool, expires: int | None
) -> None:
    """Change a key."""
    if no_policy and policy is not None:
        raise click.UsageError("--policy and --no-policy exclude each other")
    body = {"name": name, "policy": {} if no_policy else document(policy), "expires_seconds": expires}
    given = {field: value for field, value in body.items() if value is not None}
    if not given:
        raise click.UsageError("nothing to change was given")
    _change(session, access_key, f"key {access_key} is changed", **given)


@key.command()
@click.argument("access_key")
@click.option(
    "--overlap", type=DURATION, default=3600, metavar="DURATION", help="How long the old key still works.  [default: 1h]"
)
@remote
def rotate(session: Session, access_key: str, overlap: int) -> None:
    """Make a new key in place of one that ends after an overlap. The new secret is printed this once."""
    session.show(session.client.admin("POST", f"/keys/{segment(access_key)}/rotate", {"overlap_seconds": overlap}))


@key.command()
@click.argument("access_key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def rm(session: Session, access_key: str, yes: bool) -> None:
    """Remove a key."""
    session.confirm(f"Remove key {access_key}?", yes=yes)
    session.client.admin("DELETE", f"/keys/{segment(access_key)}")
    session.done(f"key {access_key} is gone", access_key=access_key)
