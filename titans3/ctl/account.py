"""``titanctl account``: accounts of the server, each with users and buckets of its own."""

from __future__ import annotations

import click

from titans3.ctl.client import segment
from titans3.ctl.session import Session, remote

_COLUMNS = ("account_id", "display_name", "email", "enabled", "buckets", "users", "created")


@click.group()
def account() -> None:
    """Accounts: each owns buckets and users of its own. One is there from the start: root."""


@account.command()
@click.argument("name")
@click.option("--email", metavar="ADDRESS", help="Mail address; access control lists may name the account by it.")
@remote
def create(session: Session, name: str, email: str | None) -> None:
    """Make an account; its root's keys are printed this once."""
    found = session.client.admin("POST", "/accounts", {"name": name} | ({"email": email} if email else {}))
    session.show(found)


@account.command()
@remote
def ls(session: Session) -> None:
    """All accounts."""
    session.show_list(session.client.admin("GET", "/accounts")["items"], _COLUMNS)


@account.command()
@click.argument("account", metavar="ACCOUNT")
@remote
def info(session: Session, account: str) -> None:
    """An account, by number or name."""
    session.show(session.client.admin("GET", f"/accounts/{segment(account)}"))


@account.command()
@click.argument("account", metavar="ACCOUNT")
@remote
def enable(session: Session, account: str) -> None:
    """Let an account's keys in again."""
    session.client.admin("POST", f"/accounts/{segment(account)}/enable")
    session.done(f"account {account} is enabled", account=account, enabled=True)


@account.command()
@click.argument("account", metavar="ACCOUNT")
@remote
def disable(session: Session, account: str) -> None:
    """Refuse all keys of an account; nothing of it is removed."""
    session.client.admin("POST", f"/accounts/{segment(account)}/disable")
    session.done(f"account {account} is disabled", account=account, enabled=False)


@account.command()
@click.argument("account", metavar="ACCOUNT")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def rm(session: Session, account: str, yes: bool) -> None:
    """Remove an account with its users, policies and keys. It must not own a bucket."""
    session.confirm(f"Remove account {account} with its users, policies and keys?", yes=yes)
    session.client.admin("DELETE", f"/accounts/{segment(account)}")
    session.done(f"account {account} is gone", account=account)
