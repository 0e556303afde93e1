"""restic: backups that come back, are thinned out and still verify to the last byte."""

from __future__ import annotations

from pathlib import Path

from tests.clients.installed import contents, differing, endpoint, program, run, tree
from tests.faults.server import Server


def test_backup_forget_prune_check_restore(server: Server, tmp_path: Path) -> None:
    up, back = tmp_path / "up", tmp_path / "back"
    up.mkdir()
    tree(up)
    settings = {"RESTIC_PASSWORD": "a password", "RESTIC_CACHE_DIR": str(tmp_path / "cache")}
    restic = [program("debian", "restic"), "-r", f"s3:{endpoint(server)}/restic/re po", "--option", "s3.bucket-lookup=path"]
    run(server, *restic, "init", **settings)
    run(server, *restic, "backup", up, **settings)
    (up / "plain.txt").write_bytes(b"changed")
    (up / "large + %41.bin").unlink()
    run(server, *restic, "backup", up, **settings)
    run(server, *restic, "forget", "--keep-last", "1", "--prune", **settings)
    run(server, *restic, "check", "--read-data", **settings)
    run(server, *restic, "restore", "latest", "--target", back, **settings)
    assert differing(contents(back / up.relative_to("/")), contents(up)) == []
