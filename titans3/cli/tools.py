"""``titans3 tools``: offline tools for a data folder.

Invariants
* A tool that changes anything says so in its name and its help, and takes the folder's lock.
* A running server is not disturbed: what it holds in memory (rows since its last checkpoint) is not seen here.
"""

from __future__ import annotations

import click

from titans3.cli.disk import disk
from titans3.cli.meta import meta
from titans3.cli.ring import ring


@click.group()
def tools() -> None:
    """Tools for the data folder of a server that is stopped; docs/tools.md says which one when."""


tools.add_command(disk)
tools.add_command(meta)
tools.add_command(ring)
