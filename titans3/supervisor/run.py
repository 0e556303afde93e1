"""``titans3 run``: from configuration to a running server; the one place that joins the supervisor's parts."""

from __future__ import annotations

import logging
import os
import resource
import shlex
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

from titans3 import __version__
from titans3.clock import SystemClock
from titans3.config.address import Address
from titans3.config.mounts import file_system, mounts
from titans3.config.schema import Config
from titans3.errors import ConfigError
from titans3.observe.board import Board
from titans3.observe.logs import set_up
from titans3.supervisor.certificate import Certificate
from titans3.supervisor.folder import (
    Credentials,
    DataFolder,
    given_credentials,
    is_formatted,
    open_folder,
    root_credentials,
)
from titans3.supervisor.listeners import address_of, listen, reachable
from titans3.supervisor.root_key import given_passphrase, open_root_key
from titans3.supervisor.supervisor import LIVENESS_SECONDS, Supervisor
from titans3.supervisor.token_file import with_tokens

_ORPHANS_SECONDS = 15.0
_LIVENESS_VARIABLE = "_TITANS3_LIVENESS_SECONDS"  # for tests: nobody waits a minute there
_DESCRIPTORS_MAX = 1_048_576
_BANNER_RULE = "─" * 64
_logger = logging.getLogger("titans3.supervisor")


def run(config: Config, reload: Callable[[], Config]) -> int:
    """Serve until stopped; the exit code. Raises ConfigError, FormatError, DiskError before anything is served."""
    refuse_platform()
    set_up("supervisor", config.log.level, config.log.format)
    _allow_descriptors()
    given = given_credentials(os.environ) is not None
    passphrase = given_passphrase(os.environ, config.kms.passphrase_file)
    certificate = Certificate()
    certificate.take(with_tokens(config))
    cpus = len(os.sched_getaffinity(0))
    path = config.node.data[0]
    listeners = [] if is_formatted(path) else listen(tuple(config.s3.listen))  # a new folder is made when nothing else is in the way
    folder = open_folder(path, SystemClock(), cpus, make_credentials=not given)
    try:
        credentials, _ = root_credentials(folder, os.environ)
        wait = _ORPHANS_SECONDS if folder.was_unclean else 0.0  # workers of a supervisor that was killed need a moment to stop
        listeners = listeners or listen(tuple(config.s3.listen), wait_seconds=wait)
        root_key = open_root_key(folder, passphrase)  # after all that can refuse the start: it may write
        ready = _Ready(folder, credentials, [address_of(sock) for sock in listeners], given=given)
        supervisor = Supervisor(
            folder, config, credentials, root_key, listeners, config.node.workers or cpus, certificate,
            on_ready=ready, on_reload=ready.write_endpoint, reload=reload,
            liveness_seconds=float(os.environ.get(_LIVENESS_VARIABLE, LIVENESS_SECONDS)),
        )
        folder.begin()
        code = supervisor.run()
    except BaseException:
        folder.release()
        raise
    folder.close()
    return code


def refuse_platform() -> None:
    """Raises ConfigError where TitanS3 cannot keep its promises."""
    if not sys.platform.startswith("linux"):
        raise ConfigError(f"TitanS3 runs on Linux; this is {sys.platform}")
    if not __debug__:
        raise ConfigError("TitanS3 does not run under `python -O` or PYTHONOPTIMIZE: its assertions guard your data")


def _allow_descriptors() -> None:
    """As many open files as this user may have; workers inherit it. A login shell's 1,024 are connections soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Ready:
    """What happens once every worker serves: the endpoint file and the block to paste."""

    def __init__(self, folder: DataFolder, credentials: Credentials, addresses: list[Address], *, given: bool) -> None:
        self._folder, self._credentials, self._addresses, self._given = folder, credentials, addresses, given

    def __call__(self, config: Config, board: Board) -> None:
        self.write_endpoint(config, board)
        try:
            print("\n".join(self._block(config, board)), flush=True)
        except OSError as error:  # nobody reads: no reason not to serve
            _logger.info("ready at %s; standard output is closed: %s", self._url(config), error)
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 1)  # or what is left in the buffer fails once more at the end

    def _url(self, config: Config) -> str:
        return f"{'https' if config.s3.tls_cert else 'http'}://{reachable(self._addresses[0])}"

    def write_endpoint(self, config: Config, board: Board) -> None:
        """Tell tools of this machine; a disk without room for it is no reason not to serve."""
        endpoint: dict[str, object] = {
            "format": 1, "url": self._url(config), "region": config.s3.region, "pid": os.getpid(),
            "tls_cert": os.path.abspath(config.s3.tls_cert) if config.s3.tls_cert else "",
            "board": f"/proc/{os.getpid()}/fd/{board.fd}", "version": __version__,
        }  # fmt: skip
        if self._given:  # keys from the environment are in no file but this one, which goes when the server stops
            endpoint |= {"access_key": self._credentials.access_key, "secret_key": self._credentials.secret_key}
        try:
            self._folder.write_endpoint(endpoint)
        except OSError as error:
            _logger.error("titanctl will not find this server: run/endpoint.json cannot be written: %s", error)

    def _block(self, config: Config, board: Board) -> list[str]:
        folder = self._folder
        scheme = self._url(config).partition(":")[0]
        where = ", ".join(f"{scheme}://{address}" for address in self._addresses)
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
        for warning in self._warnings(config):
            lines += ["", f"  WARNING: {warning}"]
        return [*lines, _BANNER_RULE]

    def _warnings(self, config: Config) -> list[str]:
        found = []
        open_addresses = [str(address) for address in self._addresses if not address.is_loopback]
        if open_addresses and not config.s3.tls_cert:
            where = ", ".join(open_addresses)
            found.append(f"plain HTTP on {where}: bodies can be read and changed on the way; give --tls-cert and --tls-key.")
        url = urlsplit(config.audit.webhook_url)
        if url.scheme == "http" and not Address(url.hostname or "", 0).is_loopback:
            found.append(f"audit lines and their token go to {url.hostname} over plain HTTP; an https address keeps them from others.")
        if file_system(self._folder.path, mounts()) in ("tmpfs", "ramfs"):
            found.append("the data folder lies in memory: it is gone after a reboot.")
        return found


def _titanctl() -> str:
    """The command that works when pasted, whatever the PATH and the folder."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "titanctl")
    if os.access(beside, os.X_OK):
        return shlex.quote(beside)
    return f"{shlex.quote(sys.executable)} -m titans3.cli.titanctl"
