"""What the offline tools share: the data folder and its locks, tables, JSON.

Invariants
* A folder or volume that a server holds is refused by name; the locks are held until the command ends.
* With ``--json`` standard output is one JSON document (or JSON lines, where the command says so) and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from titans3.jobs.verify import Report
    from titans3.supervisor.folder import ClusterFile

data_option = click.option("--data", metavar="PATH", help="Data folder.  [default: as for run]")
json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")


def folder_of(data: str | None) -> str:
    """The data folder that is meant, absolute."""
    from titans3.config.sources import load

    return os.path.abspath(load(None)[0].node.data[0] if data is None else data)


def lock_cluster(folder: str, stack: ExitStack) -> ClusterFile:
    """``cluster.json`` of a folder, whose lock is held until the end of ``stack``. Raises ConfigError when a server runs, FormatError."""
    from titans3.supervisor.folder import read_cluster
    from titans3.supervisor.lock import lock_stopped

    cluster = read_cluster(folder)
    stack.callback(os.close, lock_stopped(folder))
    return cluster


def volume_paths(folder: str, cluster: ClusterFile) -> list[str]:
    """Folders of the volumes, in index order."""
    return [os.path.join(folder, row.path) for row in cluster.volumes]


def lock_volumes(folder: str, stack: ExitStack) -> list[str]:
    """Volumes of a data folder, whose lock is held until the end of ``stack``. Raises ConfigError when a server runs, FormatError."""
    return volume_paths(folder, lock_cluster(folder, stack))


def chosen_volumes(paths: Sequence[str], data: str | None, stack: ExitStack) -> list[str]:
    """The volumes that were named, by path or by index in the data folder; without any all of the data folder, which is locked."""
    if paths and not any(path.isdecimal() for path in paths):
        return [os.path.abspath(path) for path in paths]
    found = lock_volumes(folder_of(data), stack)
    return [volume_at(path, found) for path in paths] if paths else found


def volume_at(name: str, volumes: Sequence[str]) -> str:
    """The volume of an index or a path. Raises ConfigError for an index that the folder does not have."""
    from titans3.errors import ConfigError

    if not name.isdecimal():
        return os.path.abspath(name)
    if int(name) >= len(volumes):
        raise ConfigError(f"there is no volume {name}; the folder has 0 to {len(volumes) - 1}")
    return volumes[int(name)]


def show_json(value: Any) -> None:
    """One JSON document."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value)))


def show_table(rows: Iterable[Sequence[object]], *, left: Callable[[int], bool] = lambda column: False) -> None:
    """Rows as columns; the first is the heading. Columns are right-aligned but for those that ``left`` names."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = [cell.ljust(width) if left(n) else cell.rjust(width) for n, (cell, width) in enumerate(zip(row, widths, strict=True))]
        click.echo("  ".join(padded).rstrip())


def printable(text: str) -> str:
    """Text that does nothing to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def key_text(key: bytes) -> str:
    """A key as text: bytes that are no UTF-8 as ``\\xNN``."""
    return key.decode("utf-8", "backslashreplace")


def show_report(report: Report, as_json: bool) -> int:
    """What a verification found; its exit code."""
    if as_json:
        show_json(report)
        return 1 if report.findings else 0
    click.echo(
        f"{report.segments} segments, {report.bodies} small bodies, {report.extents} extents, {report.bytes} bytes, {report.rows} rows read"
    )
    if report.unnamed:
        click.echo(f"{report.unnamed} extents that nothing names; the sweep of a running server frees them")
    if report.pending:
        click.echo(
            f"{report.pending} entries of logs are not in the trees yet, the server was killed; its next start replays them"
            + (f", and settles {report.unsettled} references" if report.unsettled else "")
        )
    for finding in report.findings:
        click.echo(finding, err=True)
    if report.cut:
        click.echo(f"and more; the first {len(report.findings)} are listed", err=True)
    click.echo("clean" if not report.findings else f"{len(report.findings)} findings")
    return 1 if report.findings else 0
