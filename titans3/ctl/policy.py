"""``titanctl policy``: managed policies, who has them, and what they decide."""

from __future__ import annotations

from typing import IO, Any

import click

from titans3.ctl.client import Client, RemoteError
from titans3.ctl.session import Session, remote
from titans3.errors import ConfigError

_BUILTIN = "arn:aws:iam::aws:policy/"


@click.group()
def policy() -> None:
    """Policies: what users, groups and roles may do."""


def arn_of(client: Client, name: str) -> str:
    """Of a policy of the account or a built-in one, by name or ARN. Raises ConfigError."""
    if name.startswith("arn:"):
        return name
    for row in client.iam_all("ListPolicies", "Policies"):
        if row["PolicyName"].lower() == name.lower():
            return str(row["Arn"])
    raise ConfigError(f"there is no policy {name}; titanctl policy ls names all")


def _text(file: IO[bytes]) -> str:
    return file.read().decode("utf-8", "replace")


@policy.command()
@click.option("--own", is_flag=True, help="Only those of the account.")
@remote
def ls(session: Session, own: bool) -> None:
    """All policies: the built-in ones and the account's."""
    found = session.client.iam_all("ListPolicies", "Policies", Scope="Local" if own else "All")
    rows = [
        {
            "name": row["PolicyName"],
            "version": row["DefaultVersionId"],
            "attached": row["AttachmentCount"],
            "arn": row["Arn"],
        }
        for row in found
    ]
    session.show_list(rows, ("name", "version", "attached", "arn"))


@policy.command()
@click.argument("name", metavar="POLICY")
@remote
def info(session: Session, name: str) -> None:
    """A policy's document in force; with --json everything about it."""
    client = session.client
    arn = arn_of(client, name)
    found = client.iam("GetPolicy", PolicyArn=arn)["Policy"]
    version = client.iam("GetPolicyVersion", PolicyArn=arn, VersionId=found["DefaultVersionId"])["PolicyVersion"]
    session.show(found | {"Document": version["Document"]}, version["Document"])


@policy.command()
@click.argument("name", metavar="POLICY")
@click.argument("file", type=click.File("rb"))
@click.option("--description", default="")
@remote
def create(session: Session, name: str, file: IO[bytes], description: str) -> None:
    """Make a policy of a JSON file (- for standard input)."""
    made = session.client.iam("CreatePolicy", PolicyName=name, PolicyDocument=_text(file), Description=description)["Policy"]
    session.done(f"policy {name}: {made['Arn']}", name=name, arn=made["Arn"])


@policy.command()
@click.argument("name", metavar="POLICY")
@click.argument("file", type=click.File("rb"))
@remote
def update(session: Session, name: str, file: IO[bytes]) -> None:
    """Put a new version in force; of five versions the oldest goes."""
    client = session.client
    arn = arn_of(client, name)
    text = _text(file)
    try:
        made = client.iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=text, SetAsDefault=True)
    except RemoteError as error:
        if error.code != "LimitExceeded":
            raise
        old = [row for row in client.iam_all("ListPolicyVersions", "Versions", PolicyArn=arn) if not row["IsDefaultVersion"]]
        client.iam("DeletePolicyVersion", PolicyArn=arn, VersionId=old[-1]["VersionId"])
        made = client.iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=text, SetAsDefault=True)
    version = made["PolicyVersion"]["VersionId"]
    session.done(f"policy {name}: {version} is in force", name=name, version=version)


@policy.command()
@click.argument("name", metavar="POLICY")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def rm(session: Session, name: str, yes: bool) -> None:
    """Remove a policy with all its versions. Nobody may have it any more."""
    client = session.client
    arn = arn_of(client, name)
    session.confirm(f"Remove policy {name}?", yes=yes)
    for row in client.iam_all("ListPolicyVersions", "Versions", PolicyArn=arn):
        if not row["IsDefaultVersion"]:
            client.iam("DeletePolicyVersion", PolicyArn=arn, VersionId=row["VersionId"])
    client.iam("DeletePolicy", PolicyArn=arn)
    session.done(f"policy {name} is gone", name=name)


def _holder(user: str | None, group: str | None, role: str | None) -> tuple[str, str]:
    given = [(kind, name) for kind, name in (("User", user), ("Group", group), ("Role", role)) if name]
    if len(given) != 1:
        raise click.UsageError("one of --user, --group and --role is needed")
    return given[0]


def _holders(work: Any) -> Any:
    for option in ("role", "group", "user"):
        work = click.option(f"--{option}", metavar="NAME", help=f"A {option} of the account.")(work)
    return work


@policy.command()
@click.argument("name", metavar="POLICY")
@_holders
@remote
def attach(session: Session, name: str, user: str | None, group: str | None, role: str | None) -> None:
    """Give a policy to a user, group or role. Example: titanctl policy attach readwrite --user alice"""
    kind, holder = _holder(user, group, role)
    session.client.iam(f"Attach{kind}Policy", **{f"{kind}Name": holder, "PolicyArn": arn_of(session.client, name)})
    session.done(f"{kind.lower()} {holder} has {name}", policy=name, **{kind.lower(): holder})


@policy.command()
@click.argument("name", metavar="POLICY")
@_holders
@remote
def detach(session: Session, name: str, user: str | None, group: str | None, role: str | None) -> None:
    """Take a policy away from a user, group or role."""
    kind, holder = _holder(user, group, role)
    session.client.iam(f"Detach{kind}Policy", **{f"{kind}Name": holder, "PolicyArn": arn_of(session.client, name)})
    session.done(f"{kind.lower()} {holder} has {name} no more", policy=name, **{kind.lower(): holder})


@policy.command()
@click.argument("name", metavar="POLICY")
@remote
def entities(session: Session, name: str) -> None:
    """Who has a policy."""
    found = session.client.iam("ListEntitiesForPolicy", PolicyArn=arn_of(session.client, name), MaxItems=1000)
    rows = [
        {"kind": kind.lower(), "name": row[f"{kind}Name"]}
        for kind in ("User", "Group", "Role")
        for row in found[f"Policy{kind}s"]
    ]
    session.show_list(rows, ("kind", "name"))


@policy.command()
@click.argument("principal")
@click.argument("action")
@click.argument("resource")
@click.option(
    "--context",
    "-c",
    multiple=True,
    metavar="KEY=VALUE",
    help="A condition key of the request, as aws:SourceIp=10.0.0.1. Can be repeated.",
)
@remote
def simulate(session: Session, principal: str, action: str, resource: str, context: tuple[str, ...]) -> int:
    """Say whether somebody may do something, and explain it statement by statement. Exit code 1 if not.

    PRINCIPAL is a user's name, role/NAME, an access key or anonymous; RESOURCE is BUCKET/KEY or an ARN.

    Example: titanctl policy simulate alice s3:GetObject photos/2026/a.jpg -c aws:SourceIp=10.0.0.1
    """
    keys: dict[str, list[str]] = {}
    for item in context:
        name, equals, value = item.partition("=")
        if not equals:
            raise click.UsageError(f"--context {item}: KEY=VALUE is needed")
        keys.setdefault(name, []).append(value)
    found = session.client.admin(
        "POST", "/simulate", {"principal": principal, "action": action, "resource": resource, "context": keys}
    )
    allowed = found["decision"] == "allowed"
    if session.as_json:
        session.show(found)
        return 0 if allowed else 1
    click.echo(f"{found['decision']}: {action} on {found['resource']} for {principal}\n")
    rows = [
        (
            row["effect"],
            "applies" if row["applies"] else "does not",
            row["policy"],
            str(row["statement"]),
            row["sid"] or "-",
            row["why"] or "-",
        )
        for row in found["statements"]
    ]
    if rows:
        session.show_table(rows, ("effect", "here", "policy", "statement", "sid", "why not"))
    else:
        click.echo("no policy says anything")
    if found["missing_context"]:
        click.echo(f"\nConditions ask for what was not given: {', '.join(found['missing_context'])}")
    return 0 if allowed else 1
