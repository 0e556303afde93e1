"""The command ``titans3``: run a server, look at its configuration, reset its keys, offline tools.

Invariants
* Options only become configuration (``titans3.config``) or arguments of the supervisor; nothing is decided here.
* Floors are imported inside the commands: ``titans3 --help`` loads none of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from titans3 import __version__
from titans3.cli.door import enter
from titans3.cli.tools import tools

_config_option = click.option("--config", metavar="FILE", help="TOML file; conf/titans3.toml shows every key.")


class ManyValues(click.Command):
    """A command without arguments whose repeatable options take several values: ``--data /disk1 /disk2``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        many = {name for option in self.params if isinstance(option, click.Option) and option.multiple for name in option.opts}
        spread: list[str] = []
        open_option, fresh = "", False  # the repeatable option that values go to; whether it has none yet
        for argument in args:
            if argument.startswith("-"):
                name, equals, _ = argument.partition("=")
                open_option, fresh = (name if name in many else ""), not equals
            elif open_option:
                if not fresh:
                    spread.append(open_option)
                fresh = False
            spread.append(argument)
        return super().parse_args(ctx, spread)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="titans3 %(version)s")
def titans3() -> None:
    """S3-compatible object storage: one command, every core, nothing acknowledged is lost."""


@titans3.command(cls=ManyValues)
@_config_option
@click.option("--data", multiple=True, metavar="PATH …", help="Folder that holds everything.  [default: ./titans3-data]")
@click.option("--s3", multiple=True, metavar="HOST:PORT …", help="Where S3 is served.  [default: 127.0.0.1:9000]")
@click.option("--workers", type=int, metavar="N", help="Worker processes.  [default: one per CPU]")
@click.option("--bucket", multiple=True, metavar="NAME …", help="Make this bucket if it is not there.")
@click.option("--tls-cert", metavar="FILE", help="Certificate chain, PEM; with it only TLS is spoken.")
@click.option("--tls-key", metavar="FILE", help="Private key of the certificate, PEM.")
def run(config: str | None, **options: Any) -> int:
    """Run a server until it is stopped. Every option is also a key of the file and a variable of the environment."""
    from titans3.config.live import LiveConfig
    from titans3.config.sources import load
    from titans3.supervisor.run import run as serve

    flags = flags_of(options)
    live = LiveConfig(load(config, flags=flags)[0], lambda: load(config, flags=flags)[0])
    return serve(live.config, live.reload)


def flags_of(options: dict[str, Any]) -> dict[str, Any]:
    """Configuration keys that options of ``run`` set, by path; what was not given is left out."""
    from titans3.config.keys import keys

    by_option = {key.flag.removeprefix("--").replace("-", "_"): key.path for key in keys() if key.flag}
    return {by_option[name]: value for name, value in options.items() if value is not None and value != ()}


@titans3.group()
def config() -> None:
    """Check or show the configuration."""


@config.command()
@_config_option
def check(config: str | None) -> None:
    """Check file, environment and the certificates they name; start nothing."""
    from titans3.config.keys import keys
    from titans3.config.sources import load

    _, origins = load(config)
    click.echo(f"good: {len(origins.by_path)} of {len(keys())} keys are set, the others have their default")


@config.command()
@_config_option
def show(config: str | None) -> None:
    """Print every key as it would be used, as TOML, with the place it came from."""
    from titans3.config.keys import show as toml
    from titans3.config.sources import load

    click.echo(toml(*load(config)), nl=False)


@titans3.group()
def credentials() -> None:
    """The root's keys."""


@credentials.command()
@click.option("--data", metavar="PATH", help="Data folder.  [default: as for run]")
@_config_option
def reset(data: str | None, config: str | None) -> None:
    """Make new root keys for a server that is stopped. The old ones end; everything else stays as it is."""
    from titans3.config.sources import load
    from titans3.supervisor.folder import reset_credentials

    path = load(config)[0].node.data[0] if data is None else data
    made = reset_credentials(path)
    click.echo(f"access key  {made.access_key}\nsecret key  {made.secret_key}")
    click.echo(f"They are kept in {os.path.join(path, 'credentials.json')} and hold from the next start.")
    if os.environ.get("TITANS3_ROOT_ACCESS_KEY") or os.environ.get("TITANS3_ROOT_SECRET_KEY"):
        click.echo("TITANS3_ROOT_ACCESS_KEY and TITANS3_ROOT_SECRET_KEY are set here; a server that sees them uses those.", err=True)


@titans3.command()
@click.option("--data", metavar="PATH", help="Data folder.  [default: as for run]")
@click.option("--cluster", is_flag=True, help="Ask whether anything is wrong anywhere, instead of whether every key can be reached.")
def health(data: str | None, cluster: bool) -> int:
    """Ask the server of a data folder of this machine how it is. Exit code 1 if it does not answer or is not ready."""
    from titans3.cli.endpoint import ask
    from titans3.config.sources import load

    healthy, text = ask(load(None)[0].node.data[0] if data is None else data, "/health/cluster" if cluster else "/health/ready")
    click.echo(text)
    return 0 if healthy else 1


@titans3.command()
def version() -> None:
    """Print the version."""
    click.echo(f"titans3 {__version__}")


titans3.add_command(tools)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    return enter(titans3, "titans3", arguments)


if __name__ == "__main__":
    sys.exit(main())
