"""``python -m titans3.engine.format_cli PATH --cluster UUID --uuid UUID --index N --created-ms MS``: make an empty volume.

A process of its own, so that the supervisor needs neither the engine nor LMDB. Exit code 0: made and durable; 1: refused, with
one line on standard error.
"""

from __future__ import annotations

import argparse
import sys

from titans3.engine.files import OsFiles
from titans3.engine.identity import format_volume
from titans3.errors import TitanError


def main(arguments: list[str] | None = None) -> int:
    """Format one volume; the exit code."""
    parser = argparse.ArgumentParser(prog="titans3-format", description="Make an empty TitanS3 volume.")
    parser.add_argument("path")
    parser.add_argument("--cluster", required=True, help="uuid of the cluster")
    parser.add_argument("--uuid", required=True, help="uuid of the volume")
    parser.add_argument("--index", required=True, type=int, help="index of the volume in cluster.json")
    parser.add_argument("--created-ms", required=True, type=int, help="milliseconds since 1970")
    given = parser.parse_args(arguments)
    try:
        format_volume(
            OsFiles(), given.path, cluster=given.cluster, uuid=given.uuid, index=given.index, created_ms=given.created_ms
        )
    except (TitanError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
