"""The physical limits: nginx that sends a file, and a loop of pwrite and fdatasync.

nginx is asked by the replayer, and so is TitanS3 beside it: the same client, the same requests (nginx does not look at the signature).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.peers.matrix import Cell
from bench.peers.outcome import Outcome, Request, summed
from bench.peers.recipe import Recipe
from bench.peers.served import Served

FILE_BYTES = 64 << 20
NGINX = Recipe(
    name="nginx", title="nginx", program="nginx", version=["-v"], command=["{program}", "-e", "stderr", "-p", "{data}", "-c", "nginx.conf"],
    folders=["files"], durability="reads files", syncs=True,
)  # fmt: skip
DISK = Recipe(
    name="disk", title="pwrite + fdatasync", command=["pwrite and fdatasync, one after the other, over a file that was written before"],
    durability="syncs each write", syncs=True,
)  # fmt: skip
_NGINX_CONF = """\
daemon off; master_process on; worker_processes {workers}; pid nginx.pid; error_log stderr warn; {user}
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; open_file_cache max=20000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


class Nginx(Served):
    """nginx on a folder of files."""

    def start(self) -> float:
        """With its configuration; as root its workers stay root, for the folder is closed to others."""
        self.data.mkdir(parents=True)
        user = "user root;" if os.geteuid() == 0 else ""
        text = _NGINX_CONF.format(workers=int(self._values["workers"]) or "auto", port=self.port, root=self.data / "files", user=user)
        (self.data / "nginx.conf").write_text(text, encoding="utf-8")
        return super().start()

    def put_file(self, path: str, body: bytes) -> None:
        """A file for nginx to send."""
        place = self.data / "files" / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(body)


def write_and_sync(cell: Cell, folder: Path) -> Outcome:
    """Bodies one after the other over a written file, each synced: what a disk gives one writer that has no file system to keep."""
    body = os.urandom(cell.bytes)
    requests: list[Request] = []
    descriptor = os.open(folder / "file", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for at in range(0, FILE_BYTES, 1 << 20):
            os.pwrite(descriptor, bytes(1 << 20), at)
        os.fsync(descriptor)
        own, at, stop = time.process_time(), 0, time.time_ns() + int(cell.seconds * 1e9)
        while (begin := time.time_ns()) < stop:
            os.pwrite(descriptor, body, at)
            os.fdatasync(descriptor)
            requests.append(("PUT", begin, time.time_ns(), ""))
            at = (at + cell.bytes) % (FILE_BYTES - cell.bytes)
        own = time.process_time() - own
    finally:
        os.close(descriptor)
    return summed(requests, own, 0.0)
