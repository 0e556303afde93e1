"""Servers by name: ``aliases.json`` in the user's configuration folder, and ``TITANCTL_HOST_<alias>`` of the environment.

Invariants
* The file holds secrets: it is made with mode 0600, replaced whole, and one that others can read is refused.
* A variable of the environment wins over the file.
"""

from __future__ import annotations

import os
import re
import stat
from urllib.parse import unquote, urlsplit

import msgspec

from titans3.errors import ConfigError, FormatError

FORMAT = 1
VARIABLE = "TITANCTL_HOST_"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_FILE_BYTES_MAX = 1024 * 1024


class Alias(msgspec.Struct, frozen=True):
    """A server and who asks it. ``ca``: a file of authorities to believe, empty for those of this machine. ``token``: of a session."""

    url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    ca: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"Alias({self.url}, {self.access_key})"  # never the secret


class _File(msgspec.Struct):
    format: int = FORMAT
    aliases: dict[str, Alias] = {}


def path() -> str:
    """Where the file is."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "titanctl", "aliases.json")


def checked_name(name: str) -> str:
    """Raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for an alias: a letter, then letters, digits, - and _, at most 63")
    return name


def load() -> dict[str, Alias]:
    """All of the file. Raises ConfigError, FormatError."""
    file = path()
    try:
        with open(file, "rb") as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                raise ConfigError(f"{file} holds secrets and others can read it: chmod 600 {file}")
            found = msgspec.json.decode(opened.read(_FILE_BYTES_MAX), type=_File)
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        raise FormatError(f"{file} is not readable: {error}") from error
    if found.format != FORMAT:
        raise FormatError(f"{file} has format {found.format}, this titanctl reads {FORMAT}")
    return found.aliases


def save(aliases: dict[str, Alias]) -> None:
    """Replace the file."""
    file = path()
    os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
    temporary = f"{file}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(fd, "wb") as opened:
            opened.write(msgspec.json.format(msgspec.json.encode(_File(FORMAT, aliases))) + b"\n")
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def of_variable(name: str) -> Alias | None:
    """``https://KEY:SECRET@host:port`` of the environment. Raises ConfigError."""
    text = os.environ.get(VARIABLE + name)
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.username or not parts.password:
        raise ConfigError(f"{VARIABLE}{name} is not https://ACCESS_KEY:SECRET_KEY@host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Alias(f"{parts.scheme}://{host}{port}", unquote(parts.username), unquote(parts.password))


def find(name: str) -> Alias | None:
    """By name."""
    return of_variable(name) or load().get(name)


def checked_url(url: str) -> str:
    """An address without a path. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.path not in ("", "/") or parts.query or parts.username:
        raise ConfigError(f"{url} is no address of a server, as http://127.0.0.1:9000")
    return f"{parts.scheme}://{parts.netloc}"
