"""``titans3 run``: from configuration to a running server; the one place that joins the supervisor's parts."""

from __future__ import annotations

import os
import shlex
import ssl
import sys
from collections.abc import Callable

from titans3 import __version__
from titans3.clock import SystemClock
from titans3.config.address import Address
from titans3.config.schema import Config
from titans3.errors import ConfigError
from titans3.observe.board import Board
from titans3.observe.logs import set_up
from titans3.supervisor.folder import Credentials, DataFolder, file_system, open_folder, root_credentials
from titans3.supervisor.listeners import address_of, listen, reachable
from titans3.supervisor.supervisor import Supervisor

_ORPHANS_SECONDS = 15.0
_BANNER_RULE = "─" * 64


def run(config: Config, reload: Callable[[], Config]) -> int:
    """Serve until stopped; the exit code. Raises ConfigError, FormatError, DiskError before anything is served."""
    refuse_platform()
    set_up("supervisor", config.log.level, config.log.format)
    _check_certificate(config)
    cpus = len(os.sched_getaffinity(0))
    folder = open_folder(config.node.data[0], SystemClock(), cpus)
    try:
        credentials, given = root_credentials(folder, os.environ)
        wait = _ORPHANS_SECONDS if folder.was_unclean else 0.0  # workers of a supervisor that was killed need a moment to stop
        listeners = listen(tuple(config.s3.listen), wait_seconds=wait)
        ready = _Ready(folder, config, credentials, [address_of(sock) for sock in listeners], given=given)
        supervisor = Supervisor(
            folder, config, credentials, listeners, config.node.workers or cpus, on_ready=ready, reload=reload
        )
        return supervisor.run()
    finally:
        folder.close()


def refuse_platform() -> None:
    """Raises ConfigError where TitanS3 cannot keep its promises."""
    if not sys.platform.startswith("linux"):
        raise ConfigError(f"TitanS3 runs on Linux; this is {sys.platform}")
    if not __debug__:
        raise ConfigError("TitanS3 does not run under `python -O` or PYTHONOPTIMIZE: its assertions guard your data")


def _check_certificate(config: Config) -> None:
    if not config.s3.tls_cert:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.s3.tls_cert, config.s3.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"s3.tls_cert, s3.tls_key: {config.s3.tls_cert} and {config.s3.tls_key} do not load: {error}") from error


class _Ready:
    """What happens once every worker serves: the endpoint file and the block to paste."""

    def __init__(
        self, folder: DataFolder, config: Config, credentials: Credentials, addresses: list[Address], *, given: bool
    ) -> None:
        self._folder, self._config, self._credentials, self._addresses, self._given = folder, config, credentials, addresses, given

    def __call__(self, board: Board) -> None:
        config = self._config
        scheme = "https" if config.s3.tls_cert else "http"
        url = f"{scheme}://{reachable(self._addresses[0])}"
        endpoint: dict[str, object] = {
            "format": 1, "url": url, "region": config.s3.region, "pid": os.getpid(),
            "tls_cert": os.path.abspath(config.s3.tls_cert) if config.s3.tls_cert else "",
            "board": f"/proc/{os.getpid()}/fd/{board.fd}", "version": __version__,
        }
        if self._given:  # keys from the environment are in no file but this one, which goes when the server stops
            endpoint |= {"access_key": self._credentials.access_key, "secret_key": self._credentials.secret_key}
        self._folder.write_endpoint(endpoint)
        print("\n".join(self._block(url, board)), flush=True)

    def _block(self, url: str, board: Board) -> list[str]:
        folder = self._folder
        where = ", ".join(f"{url.split(':')[0]}://{address}" for address in self._addresses)
        lines = [
            _BANNER_RULE,
            f"TitanS3 {__version__} is ready: {where}",
            f"  data      {folder.path} ({board.volumes} volumes on one disk, one copy of everything, {board.workers} workers)",
            f"  root key  {self._credentials.access_key}",
        ]
        if self._given:
            lines.append("  secret    from TITANS3_ROOT_SECRET_KEY")
        else:
            lines.append(f"  secret    in {os.path.join(folder.path, 'credentials.json')}")
        lines += [
            "", "  In another terminal:", f'    eval "$({_titanctl()} env --data {shlex.quote(folder.path)})"',
            "    aws s3 mb s3://first && aws s3 cp README.md s3://first/",
        ]
        for warning in self._warnings():
            lines += ["", f"  WARNING: {warning}"]
        return [*lines, _BANNER_RULE]

    def _warnings(self) -> list[str]:
        found = []
        open_addresses = [str(address) for address in self._addresses if not address.is_loopback]
        if open_addresses and not self._config.s3.tls_cert:
            where = ", ".join(open_addresses)
            found.append(f"plain HTTP on {where}: bodies can be read and changed on the way; give --tls-cert and --tls-key.")
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            if file_system(self._folder.path, mounts.read()) in ("tmpfs", "ramfs"):
                found.append("the data folder lies in memory: it is gone after a reboot.")
        return found


def _titanctl() -> str:
    """The command that works when pasted, whatever the PATH and the folder."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "titanctl")
    if os.access(beside, os.X_OK):
        return shlex.quote(beside)
    return f"{shlex.quote(sys.executable)} -m titans3.cli.titanctl"

