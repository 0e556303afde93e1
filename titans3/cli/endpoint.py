"""The server of a data folder as a client of this machine sees it: where it listens, and the root's keys.

``run/endpoint.json`` is there while a server runs. Keys that were given to the server in its environment are in it; others are in
``credentials.json``. Both files are readable by the folder's owner alone.
"""

from __future__ import annotations

import http.client
import os
import pwd
import shlex
import socket
import ssl
from urllib.parse import urlsplit

import msgspec

from titans3.errors import ConfigError, FormatError
from titans3.supervisor.folder import read_credentials

FORMAT = 1
FILE_BYTES_MAX = 64 * 1024
CONNECT_SECONDS = 3.0


class Endpoint(msgspec.Struct, frozen=True):
    """``run/endpoint.json``. ``ca`` is a file of authorities that clients need; keys are empty if ``credentials.json`` has them."""

    format: int
    url: str
    region: str
    pid: int = 0
    tls_cert: str = ""
    ca: str = ""
    access_key: str = ""
    secret_key: str = ""
    board: str = ""
    version: str = ""


class Server(msgspec.Struct, frozen=True):
    """A server that answers."""

    url: str
    region: str
    access_key: str
    secret_key: str
    tls_cert: str = ""
    ca: str = ""

    @property
    def host(self) -> str:
        """``127.0.0.1:9000``."""
        return urlsplit(self.url).netloc

    @property
    def is_tls(self) -> bool:
        """Whether it speaks TLS."""
        return self.url.startswith("https:")

    def connect(self) -> socket.socket:
        """A connection to it. Raises OSError."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return socket.create_connection((parts.hostname, parts.port or (443 if self.is_tls else 80)), CONNECT_SECONDS)


def running(folder: str) -> Server:
    """The server that runs on a data folder. Raises ConfigError if there is none or it is not this user's, FormatError."""
    endpoint = read_endpoint(folder)
    access_key, secret_key = endpoint.access_key, endpoint.secret_key
    if not access_key:
        try:
            kept = read_credentials(folder)
        except PermissionError:
            raise _not_ours(folder) from None
        access_key, secret_key = kept.access_key, kept.secret_key
    server = Server(endpoint.url, endpoint.region, access_key, secret_key, endpoint.tls_cert, endpoint.ca)
    try:
        server.connect().close()
    except OSError as error:
        raise ConfigError(
            f"the server of {folder} (process {endpoint.pid}) does not answer at {endpoint.url}: {error.strerror or error}; "
            f"it is stopping, or it was killed. Start it again: {start_word(folder)}"
        ) from None
    return server


def ask(folder: str, path: str) -> tuple[bool, str]:
    """Whether a plain GET of this machine's server was answered with 200, and the text. Raises ConfigError when nobody answers."""
    server = running(folder)
    netloc = server.host
    connection = http.client.HTTPConnection(netloc, timeout=CONNECT_SECONDS)
    if server.is_tls:
        from titans3.cli.trust import client_trust

        context = ssl.create_default_context(cafile=client_trust(server, "")[0] or None)
        connection = http.client.HTTPSConnection(netloc, timeout=CONNECT_SECONDS, context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status == 200, answer.read(FILE_BYTES_MAX).decode("utf-8", "replace").rstrip("\n")
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(f"the server of {folder} does not answer at {server.url}: {error}") from error
    finally:
        connection.close()


def start_word(folder: str) -> str:
    """How a server is started on a folder."""
    return f"titans3 run --data {shlex.quote(folder)}"


def read_endpoint(folder: str) -> Endpoint:
    """What a server said when it was ready. Raises ConfigError if there is none or it is not this user's, FormatError."""
    name = os.path.join(folder, "run", "endpoint.json")
    try:
        with open(name, "rb") as file:
            raw = file.read(FILE_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.isdir(folder):
            raise ConfigError(
                f"there is no folder {folder}; name the server's data folder: titanctl env --data PATH (or set TITANS3_DATA)"
            ) from None
        raise ConfigError(f"no server runs on {folder}; start one: {start_word(folder)}") from None
    except PermissionError:
        raise _not_ours(folder) from None
    try:
        form = msgspec.json.decode(raw, type=dict[str, object]).get("format")
        if form != FORMAT:
            raise FormatError(f"{name} has format {form}, this titanctl reads {FORMAT}; use the one that came with the server")
        return msgspec.json.decode(raw, type=Endpoint)
    except msgspec.MsgspecError as error:
        raise FormatError(f"{name} is not readable: {error}") from error


def _not_ours(folder: str) -> ConfigError:
    try:
        owner = pwd.getpwuid(os.stat(folder).st_uid).pw_name
    except (KeyError, OSError):
        owner = "another user"
    return ConfigError(f"{folder} belongs to {owner}, and its keys are for that user alone")
