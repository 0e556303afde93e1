"""``titanctl user`` and ``titanctl group``."""

from __future__ import annotations

import sys
from typing import Any

import click

from titans3.ctl.client import Client, RemoteError, segment
from titans3.ctl.policy import arn_of
from titans3.ctl.session import Session, remote
from titans3.errors import ConfigError


@click.group()
def user() -> None:
    """Users of the account: people and programs with keys of their own."""


@user.command()
@click.argument("name")
@click.option(
    "--policy", "policies", multiple=True, metavar="POLICY", help="Attach this policy, as readwrite. Can be repeated."
)
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="Put the user into this group. Can be repeated.")
@click.option("--no-key", is_flag=True, help="Make no access key.")
@click.option("--path", default="/", show_default=True, help="Path in the user's ARN.")
@remote
def add(session: Session, name: str, policies: tuple[str, ...], groups: tuple[str, ...], no_key: bool, path: str) -> None:
    """Make a user with an access key, whose secret is printed this once.

    Example: titanctl user add alice --policy readwrite
    """
    client = session.client
    arns = [arn_of(client, policy) for policy in policies]
    made = client.iam("CreateUser", UserName=name, Path=path)["User"]
    for arn in arns:
        client.iam("AttachUserPolicy", UserName=name, PolicyArn=arn)
    for group in groups:
        client.iam("AddUserToGroup", UserName=name, GroupName=group)
    shown: dict[str, Any] = {"user": name, "arn": made["Arn"], "policies": list(policies), "groups": list(groups)}
    if not no_key:
        key = client.admin("POST", "/keys", {"user": name})
        shown |= {"access_key": key["access_key"], "secret_key": key["secret_key"]}
    session.show(shown)
    if not policies and not groups and not session.as_json:
        click.echo(f"It may do nothing yet: titanctl policy attach readwrite --user {name}", err=True)


@user.command()
@remote
def ls(session: Session) -> None:
    """All users of the account."""
    found = session.client.iam_all("ListUsers", "Users")
    rows = [{"name": row["UserName"], "path": row["Path"], "created": row["CreateDate"], "arn": row["Arn"]} for row in found]
    session.show_list(rows, ("name", "path", "created", "arn"))


@user.command()
@click.argument("name")
@remote
def info(session: Session, name: str) -> None:
    """A user with groups, policies and keys."""
    found = session.client.admin("GET", f"/users/{segment(name)}")
    if session.as_json:
        session.show(found)
        return
    keys = found.pop("keys")
    session.show(found)
    if keys:
        click.echo()
        session.show_list(keys, ("access_key", "status", "is_service_account", "name", "expires", "last_used"))


@user.command()
@click.argument("name")
@remote
def enable(session: Session, name: str) -> None:
    """Let a user in again."""
    session.client.admin("POST", f"/users/{segment(name)}/enable")
    session.done(f"user {name} is enabled", user=name, enabled=True)


@user.command()
@click.argument("name")
@remote
def disable(session: Session, name: str) -> None:
    """Refuse a user's keys and sessions, at once and on every worker; nothing is removed."""
    session.client.admin("POST", f"/users/{segment(name)}/disable")
    session.done(f"user {name} is disabled", user=name, enabled=False)


@user.command()
@click.argument("name")
@click.option(
    "--force", is_flag=True, help="Its keys, policies, password and memberships, too; without it a user who has any stays."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def rm(session: Session, name: str, force: bool, yes: bool) -> None:
    """Remove a user."""
    session.confirm(f"Remove user {name}{' with keys and policies' if force else ''}?", yes=yes)
    client = session.client
    if force:
        _empty(client, name)
    client.iam("DeleteUser", UserName=name)
    session.done(f"user {name} is gone", user=name)


def _empty(client: Client, name: str) -> None:
    found = client.admin("GET", f"/users/{segment(name)}")
    for key in found["keys"]:
        client.admin("DELETE", f"/keys/{segment(key['access_key'])}")
    for arn in found["policies"]:
        client.iam("DetachUserPolicy", UserName=name, PolicyArn=arn)
    for policy in found["inline"]:
        client.iam("DeleteUserPolicy", UserName=name, PolicyName=policy)
    for one in found["groups"]:
        client.iam("RemoveUserFromGroup", UserName=name, GroupName=one)
    if found["has_password"]:
        client.iam("DeleteLoginProfile", UserName=name)


@user.command()
@click.argument("name")
@click.option("--remove", is_flag=True, help="Take the password away.")
@remote
def passwd(session: Session, name: str, remove: bool) -> None:
    """Set a user's console password: asked for, or the first line of standard input."""
    client = session.client
    if remove:
        client.iam("DeleteLoginProfile", UserName=name)
        session.done(f"user {name} has no password", user=name)
        return
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise ConfigError("no password was given")
    try:
        client.iam("CreateLoginProfile", UserName=name, Password=password)
    except RemoteError as error:
        if error.code != "EntityAlreadyExists":
            raise
        client.iam("UpdateLoginProfile", UserName=name, Password=password)
    session.done(f"user {name} has a new password", user=name)


# groups ----------------------------------------------------------------------------------------------------------------


@click.group()
def group() -> None:
    """Groups: users that have policies together."""


@group.command("add")
@click.argument("name")
@click.option("--policy", "policies", multiple=True, metavar="POLICY", help="Attach this policy. Can be repeated.")
@remote
def add_group(session: Session, name: str, policies: tuple[str, ...]) -> None:
    """Make a group."""
    client = session.client
    arns = [arn_of(client, policy) for policy in policies]
    made = client.iam("CreateGroup", GroupName=name)["Group"]
    for arn in arns:
        client.iam("AttachGroupPolicy", GroupName=name, PolicyArn=arn)
    session.done(f"group {name}", group=name, arn=made["Arn"], policies=list(policies))


@group.command("ls")
@remote
def list_groups(session: Session) -> None:
    """All groups of the account."""
    found = session.client.iam_all("ListGroups", "Groups")
    session.show_list(
        [{"name": row["GroupName"], "created": row["CreateDate"], "arn": row["Arn"]} for row in found],
        ("name", "created", "arn"),
    )


@group.command("info")
@click.argument("name")
@remote
def group_info(session: Session, name: str) -> None:
    """A group with its members and policies."""
    client = session.client
    members = client.iam_all("GetGroup", "Users", GroupName=name)
    attached = client.iam_all("ListAttachedGroupPolicies", "AttachedPolicies", GroupName=name)
    inline = client.iam_all("ListGroupPolicies", "PolicyNames", GroupName=name)
    session.show({
        "group": name, "users": [row["UserName"] for row in members], "policies": [row["PolicyArn"] for row in attached], "inline": inline,
    })  # fmt: skip


@group.command("rm")
@click.argument("name")
@click.option("--force", is_flag=True, help="Let its members go and take its policies away first.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def remove_group(session: Session, name: str, force: bool, yes: bool) -> None:
    """Remove a group."""
    session.confirm(f"Remove group {name}?", yes=yes)
    client = session.client
    if force:
        for row in client.iam_all("GetGroup", "Users", GroupName=name):
            client.iam("RemoveUserFromGroup", GroupName=name, UserName=row["UserName"])
        for row in client.iam_all("ListAttachedGroupPolicies", "AttachedPolicies", GroupName=name):
            client.iam("DetachGroupPolicy", GroupName=name, PolicyArn=row["PolicyArn"])
        for policy in client.iam_all("ListGroupPolicies", "PolicyNames", GroupName=name):
            client.iam("DeleteGroupPolicy", GroupName=name, PolicyName=policy)
    client.iam("DeleteGroup", GroupName=name)
    session.done(f"group {name} is gone", group=name)


@group.command()
@click.argument("name", metavar="GROUP")
@click.argument("users", nargs=-1, required=True, metavar="USER…")
@remote
def join(session: Session, name: str, users: tuple[str, ...]) -> None:
    """Put users into a group."""
    for one in users:
        session.client.iam("AddUserToGroup", GroupName=name, UserName=one)
    session.done(f"{', '.join(users)} in {name}", group=name, users=list(users))


@group.command()
@click.argument("name", metavar="GROUP")
@click.argument("users", nargs=-1, required=True, metavar="USER…")
@remote
def leave(session: Session, name: str, users: tuple[str, ...]) -> None:
    """Take users out of a group."""
    for one in users:
        session.client.iam("RemoveUserFromGroup", GroupName=name, UserName=one)
    session.done(f"{', '.join(users)} not in {name} any more", group=name, users=list(users))
