"""``titanctl bucket``."""

from __future__ import annotations

import os
from typing import IO, Any

import click

from titans3.ctl import listing
from titans3.ctl.address import Address, need_bucket, parse
from titans3.ctl.client import RemoteError, segment
from titans3.ctl.object import delete_all
from titans3.ctl.quantity import SIZE, shown_size
from titans3.ctl.session import Session, remote
from titans3.errors import ConfigError


@click.group()
def bucket() -> None:
    """Buckets."""


@bucket.command()
@click.argument("name", metavar="BUCKET")
@click.option("--versioning", is_flag=True, help="Keep every version from the start.")
@click.option("--ignore-existing", is_flag=True, help="No error if it is yours already.")
@remote
def create(session: Session, name: str, versioning: bool, ignore_existing: bool) -> None:
    """Make a bucket."""
    address = need_bucket(name, session)
    try:
        address.client.s3("PUT", address.bucket)
    except RemoteError as error:
        if error.code != "BucketAlreadyOwnedByYou" or not ignore_existing:
            raise
    if versioning:
        _versioning(address, "Enabled")
    session.done(f"bucket {address.bucket}", bucket=address.bucket)


@bucket.command()
@click.argument("name", metavar="[ALIAS]", required=False)
@remote
def ls(session: Session, name: str | None) -> None:
    """The account's buckets."""
    client = parse(name, session).client if name else session.client
    root = client.s3("GET").xml
    rows = [
        {"name": element.findtext("Name") or "", "created": element.findtext("CreationDate") or ""}
        for element in root.findall("Buckets/Bucket")
    ]
    session.show_list(rows, ("name", "created"))


@bucket.command()
@click.argument("name", metavar="BUCKET")
@click.option("--force", is_flag=True, help="With every object and version in it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def rm(session: Session, name: str, force: bool, yes: bool) -> None:
    """Remove an empty bucket; with --force, one with objects."""
    address = need_bucket(name, session)
    if force:
        session.confirm(f"Remove bucket {address.bucket} with everything in it?", yes=yes)
        _abort_uploads(address)
        delete_all(address, listing.versions(address, recursive=True))
    address.client.s3("DELETE", address.bucket)
    session.done(f"bucket {address.bucket} is gone", bucket=address.bucket)


def _abort_uploads(address: Address) -> None:
    while found := address.client.s3("GET", address.bucket, query={"uploads": ""}).xml.findall("Upload"):
        for element in found:
            key = os.fsencode(element.findtext("Key") or "")
            address.client.s3("DELETE", address.bucket, key, {"uploadId": element.findtext("UploadId") or ""})


@bucket.command()
@click.argument("name", metavar="BUCKET")
@remote
def info(session: Session, name: str) -> None:
    """A bucket as the server's operator sees it: owner, versioning, whether it is public."""
    address = need_bucket(name, session)
    session.show(address.client.admin("GET", f"/buckets/{segment(address.bucket)}"))


@bucket.command()
@click.argument("name", metavar="BUCKET")
@click.argument("state", type=click.Choice(["enable", "suspend", "show"]), default="show")
@remote
def versioning(session: Session, name: str, state: str) -> None:
    """Enable or suspend versioning, or show it."""
    address = need_bucket(name, session)
    if state != "show":
        _versioning(address, "Enabled" if state == "enable" else "Suspended")
    found = address.client.s3("GET", address.bucket, query={"versioning": ""}).xml.findtext("Status") or "never enabled"
    session.show({"bucket": address.bucket, "versioning": found}, f"{address.bucket}: {found.lower()}")


def _versioning(address: Address, status: str) -> None:
    body = f"<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>".encode()
    address.client.s3("PUT", address.bucket, query={"versioning": ""}, body=body)


@bucket.group()
def policy() -> None:
    """The bucket's policy, a JSON document."""


@policy.command("get")
@click.argument("name", metavar="BUCKET")
@remote
def get_policy(session: Session, name: str) -> None:
    """Print it as it was set."""
    address = need_bucket(name, session)
    text = address.client.s3("GET", address.bucket, query={"policy": ""}).read().decode()
    session.show({"bucket": address.bucket, "policy": text}, text)


@policy.command("set")
@click.argument("name", metavar="BUCKET")
@click.argument("file", type=click.File("rb"))
@remote
def set_policy(session: Session, name: str, file: IO[bytes]) -> None:
    """Set it from a file (- for standard input)."""
    address = need_bucket(name, session)
    text = file.read()
    if not text.strip():
        raise ConfigError(f"{file.name} is empty")
    address.client.s3("PUT", address.bucket, query={"policy": ""}, body=text)
    session.done(f"{address.bucket} has the policy of {file.name}", bucket=address.bucket)


@policy.command("rm")
@click.argument("name", metavar="BUCKET")
@remote
def remove_policy(session: Session, name: str) -> None:
    """Take it away."""
    address = need_bucket(name, session)
    address.client.s3("DELETE", address.bucket, query={"policy": ""})
    session.done(f"{address.bucket} has no policy", bucket=address.bucket)


@bucket.group()
def quota() -> None:
    """How many bytes a bucket may hold: all versions, and the parts of open uploads."""


@quota.command("get")
@click.argument("name", metavar="BUCKET")
@remote
def get_quota(session: Session, name: str) -> None:
    """Show it, and what is used of it."""
    address = need_bucket(name, session)
    _show_quota(session, address.client.admin("GET", f"/buckets/{segment(address.bucket)}/quota"))


@quota.command("set")
@click.argument("name", metavar="BUCKET")
@click.argument("size", metavar="SIZE", type=SIZE)
@remote
def set_quota(session: Session, name: str, size: int) -> None:
    """Set it, as 500GB or 10TiB. A bucket that holds more keeps what it has and does not grow."""
    address = need_bucket(name, session)
    _show_quota(session, address.client.admin("PUT", f"/buckets/{segment(address.bucket)}/quota", {"bytes": size}))


@quota.command("rm")
@click.argument("name", metavar="BUCKET")
@remote
def remove_quota(session: Session, name: str) -> None:
    """Take it away."""
    address = need_bucket(name, session)
    address.client.admin("DELETE", f"/buckets/{segment(address.bucket)}/quota")
    session.done(f"{address.bucket} has no quota", bucket=address.bucket)


def _show_quota(session: Session, found: dict[str, Any]) -> None:
    size, used = found["quota"], found["used"]
    if size:
        text = f"{found['bucket']}: {shown_size(used)} of {shown_size(size)} used ({used / size:.1%})"
    else:
        text = f"{found['bucket']}: no quota, {shown_size(used)} used"
    session.show(found, text)


@bucket.command()
@click.option("--by-account", is_flag=True, help="Sums over the buckets of each account.")
@remote
def usage(session: Session, by_account: bool) -> None:
    """What every bucket of the server holds, the largest first."""
    rows = session.client.admin("GET", "/usage/accounts" if by_account else "/usage")["items"]
    rows.sort(key=lambda row: -(row["stored_bytes"] + row["upload_bytes"]))
    if session.as_json:
        session.show_list(rows, ())
        return
    for row in rows:
        row["bytes"] = shown_size(row["stored_bytes"] + row["upload_bytes"])
        if "quota" in row:
            row["quota"] = shown_size(row["quota"]) if row["quota"] else ""
    first = ("account", "account_name", "buckets") if by_account else ("name", "owner_name", "quota")
    session.show_list(rows, (*first, "bytes", "objects", "versions", "uploads"))
