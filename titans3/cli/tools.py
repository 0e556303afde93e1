"""``titans3 tools``: offline tools for a data folder.

Invariants
* They read; a tool that changes anything says so in its name and takes the folder's lock.
* What a running server holds in memory (rows since its last checkpoint) is not seen here.
"""

from __future__ import annotations

import click

from titans3.cli.disk import disk, meta
from titans3.cli.ring import ring


@click.group()
def tools() -> None:
    """Tools that read a data folder."""


tools.add_command(disk)
tools.add_command(meta)
tools.add_command(ring)
