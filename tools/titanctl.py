"""Write docs/titanctl.md from the commands of titanctl; ``--check`` fails if it is not what would be written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "titanctl.md"
_HEAD = """# titanctl

Every command, as `-h` shows it (`python tools/titanctl.py` writes this page).

* Which server: `--alias NAME` (`titanctl alias set`, or `TITANCTL_HOST_<alias>=https://KEY:SECRET@host:port`), else `AWS_ENDPOINT_URL` with
  AWS's keys, else the server of a data folder of this machine: `--data`, `TITANS3_DATA`, or `./titans3-data`.
* Addresses: `BUCKET/KEY`, or `ALIAS/BUCKET/KEY` for the server of an alias; `s3://BUCKET/KEY` is always of the server that is meant, also
  where a bucket is named like an alias. In `object cp`, what is neither is a file.
* `--json`: one object, or for a list one object a line; words for people go to standard error. Exit codes: 0 done, 1 refused or failed,
  2 wrong usage, 130 interrupted.
* What cannot be undone asks on a terminal and needs `--yes` elsewhere.
"""


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, f"{path} {name}")


def made() -> str:
    """The page."""
    from titans3.cli.titanctl import titanctl

    parts = [_HEAD]
    for path, command in commands(titanctl, "titanctl"):
        context = click.Context(command, info_name=path, max_content_width=100, terminal_width=100, help_option_names=["-h", "--help"])
        depth = "#" * min(2 + (path.count(" ") > 1), 3)
        if path != "titanctl":
            parts.append(f"{depth} {path}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def main() -> int:
    if "--check" in sys.argv[1:]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made())
    PAGE.write_text(made(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
