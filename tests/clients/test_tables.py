"""Data-lake engines: file systems under odd names, and tables whose commits must not be lost."""

from __future__ import annotations

from pathlib import Path

from tests.clients.installed import NAMES, script
from tests.faults.server import Server


def test_pyarrow(server: Server) -> None:
    assert int(script(server, "with_arrow.py", "pyarrow")) == len(NAMES) - 1


def test_fsspec_with_s3fs(server: Server) -> None:
    assert int(script(server, "with_fsspec.py", "fsspec")) == len(NAMES)


def test_duckdb(server: Server) -> None:
    assert script(server, "with_duckdb.py", "duckdb").split() == [b"done"]


def test_polars(server: Server) -> None:
    assert script(server, "with_polars.py", "polars").split() == [b"done"]


def test_deltalake_two_writers(server: Server) -> None:
    assert script(server, "with_delta.py", "deltalake").split() == [b"done"]


def test_pyiceberg(server: Server, tmp_path: Path) -> None:
    assert script(server, "with_iceberg.py", "pyiceberg", str(tmp_path)).split() == [b"done"]
