"""Cluster keys: what an operator changes while everything runs, kept in the control plane, the same on every worker.

Keys (text): ``/cluster/<name>`` the value as JSON · ``/cluster_history/<number>`` SettingChange.

Invariants
* No name is also a key of the configuration file: a value has one place.
* A value that is not set is the default, which may change with a version; setting the default keeps it.
"""

from __future__ import annotations

import msgspec

PREFIX, HISTORY = "/cluster/", "/cluster_history/"
HISTORY_MAX = 100
FORMAT = 1
Value = bool | int | str


class Setting(msgspec.Struct, frozen=True):
    """A key: its default says its type. ``least`` and ``most`` bound numbers, and the length of texts."""

    name: str
    default: Value
    summary: str
    least: int = 0
    most: int = 0

    @property
    def kind(self) -> str:
        """``boolean``, ``number`` or ``text``."""
        return "boolean" if isinstance(self.default, bool) else "number" if isinstance(self.default, int) else "text"

    def checked(self, value: object) -> Value:
        """``value``, if the key takes it. Raises ValueError with what is wrong."""
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise ValueError(f"{self.name} is true or false")
            return value
        if isinstance(self.default, int):
            if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
                raise ValueError(f"{self.name} is a whole number from {self.least:,} to {self.most:,}")
            return value
        if not isinstance(value, str) or len(value) > self.most or not value.isprintable():
            raise ValueError(f"{self.name} is a text of at most {self.most:,} printable characters")
        return value


class SettingChange(msgspec.Struct, array_like=True, frozen=True):
    """One change. ``old`` and ``new`` are JSON, ``None`` for not set. ``number`` counts changes from 1."""

    format: int
    number: int
    changed_ms: int
    who: str
    name: str
    old: str | None
    new: str | None


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("access.public", True, "Whether requests that nobody signed can be allowed at all, by whatever policy or list"),
        Setting("iam.access_keys_max", 2, "Access keys a user may have at a time", 1, 100),
        Setting("iam.groups_max", 500, "Groups an account may have", 1, 100_000),
        Setting("iam.policies_max", 1_500, "Managed policies an account may have", 1, 100_000),
        Setting("iam.roles_max", 1_000, "Roles an account may have", 1, 100_000),
        Setting("iam.service_accounts_max", 100, "Service accounts a user may have", 0, 10_000),
        Setting("iam.users_max", 5_000, "Users an account may have", 1, 100_000),
    )
}


def setting_key(name: str) -> str:
    """Of a value."""
    return f"{PREFIX}{name}"


def history_key(number: int) -> str:
    """Of a change; 0 gives the prefix of all."""
    return f"{HISTORY}{number:010d}" if number else HISTORY
