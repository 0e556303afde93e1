"""The command ``titanctl``: what a person or a client needs to use and administrate a server.

Invariants
* Standard output is for a shell's ``eval`` or for a program: on any error it stays empty. Words for people go to standard error.
* Every value is quoted for sh, whatever is in it.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import shlex
import sys
from collections.abc import Sequence

import click

from titans3 import __version__
from titans3.cli.door import enter, say

# Commands that are loaded when they are used: name, module, attribute, and what the help says in one line.
LAZY = (
    ("account", "titans3.ctl.account", "account", "Accounts: each owns buckets and users of its own."),
    ("alias", "titans3.ctl.alias", "alias", "Names for servers."),
    ("audit", "titans3.ctl.audit", "audit", "Who administrated what, and whom the server refused."),
    ("bucket", "titans3.ctl.bucket", "bucket", "Buckets: create, list, remove, policy, quota, versioning, usage."),
    ("completion", "titans3.ctl.completion", "completion", "Completion of commands for bash, zsh and fish."),
    ("config", "titans3.ctl.config", "config", "Configuration of the running server."),
    ("group", "titans3.ctl.user", "group", "Groups of users."),
    ("info", "titans3.ctl.info", "info", "What may fail, and how the server is."),
    ("key", "titans3.ctl.key", "key", "Access keys and service accounts."),
    ("kms", "titans3.ctl.kms", "kms", "The root key: backup and restore."),
    ("logs", "titans3.ctl.trace", "logs", "Log lines of all workers as they come."),
    ("object", "titans3.ctl.object", "object_", "Objects: put, get, list, copy, remove, share."),
    ("policy", "titans3.ctl.policy", "policy", "Policies: what users, groups and roles may do."),
    ("ring", "titans3.ctl.ring", "ring", "Where buckets and keys belong."),
    ("service", "titans3.ctl.info", "service", "Restart or stop the server."),
    ("top", "titans3.ctl.trace", "top", "Which operations the server is busy with."),
    ("trace", "titans3.ctl.trace", "trace", "Requests of the whole server as they are answered."),
    ("user", "titans3.ctl.user", "user", "Users: people and programs with keys of their own."),
)


class Lazy(click.Group):
    """A group that loads a command's module when it is used, so that ``--help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *(name for name, *_ in LAZY)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for name, module, attribute, _ in LAZY:
            if name == cmd_name:
                found = getattr(importlib.import_module(module), attribute)
                assert isinstance(found, click.Command)
                return found
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Click suggests only commands that are loaded."""
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and one line each, without loading anything."""
        lines = {name: text for name, _, _, text in LAZY}
        lines |= {name: command.get_short_help_str(80) for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(lines.items()))


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="titanctl %(version)s")
def titanctl() -> None:
    """Use and administrate a TitanS3 server.

    Which one: --alias NAME (titanctl alias set), else AWS_ENDPOINT_URL with AWS's keys, else the server of a data folder of this machine
    (--data, TITANS3_DATA, or ./titans3-data).
    """


@titanctl.command()
@click.option("--data", metavar="PATH", help="The server's data folder.  [default: TITANS3_DATA, or ./titans3-data]")
@click.option("--flags", is_flag=True, help="Print --host, --access-key, --secret-key and --tls instead, as warp takes them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def env(data: str | None, flags: bool, as_json: bool) -> None:
    """Print the lines that point aws, boto3 and the like at the server of a data folder: eval "$(titanctl env)"."""
    from titans3.cli.endpoint import running
    from titans3.cli.trust import client_trust

    if flags and as_json:
        raise click.UsageError("--flags and --json exclude each other")
    server = running(folder_of(data))
    if flags:
        parts = [f"--host={server.host}", f"--access-key={server.access_key}", f"--secret-key={server.secret_key}"]
        click.echo(" ".join([shlex.quote(part) for part in parts] + ["--tls"] * server.is_tls))
        return
    variables = {
        "AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key, "AWS_ENDPOINT_URL": server.url,
        "AWS_REGION": server.region, "AWS_DEFAULT_REGION": server.region,  # aws reads the first, boto3 the second
    }  # fmt: skip
    overrides = list(OVERRIDES)
    if server.is_tls:
        bundle, warning = client_trust(server, os.environ.get("AWS_CA_BUNDLE", ""))
        if bundle:
            variables["AWS_CA_BUNDLE"] = bundle
        else:
            overrides.append("AWS_CA_BUNDLE")  # what it says now does not fit this server
        if warning:
            say("titanctl", warning, 0)
    if as_json:
        click.echo(json.dumps(variables))
        return
    click.echo("\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()))
    click.echo(f"unset {' '.join(overrides)}")


@titanctl.command()
@click.option("--data", metavar="PATH", help="The server's data folder.  [default: TITANS3_DATA, or ./titans3-data]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead; sizes are bytes.")
def status(data: str | None, as_json: bool) -> None:
    """Show workers and volumes of a running server: states, connections, requests, space."""
    import msgspec

    from titans3.cli.endpoint import read_endpoint
    from titans3.cli.status import status_of, table

    folder = folder_of(data)
    found = status_of(folder, read_endpoint(folder))
    click.echo(msgspec.json.encode(found) if as_json else table(found))


# What would win over the lines above: another session's token or profile, or an endpoint for S3 alone.
OVERRIDES = (
    "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE",
    "AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
)  # fmt: skip


def folder_of(data: str | None) -> str:
    """The data folder that is meant."""
    return data or os.environ.get("TITANS3_DATA") or os.environ.get("TITANS3_NODE__DATA") or "./titans3-data"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    return enter(titanctl, "titanctl", arguments)


if __name__ == "__main__":
    sys.exit(main())
