"""Configuration: start-up keys to look at, cluster keys to change, with their history.

Invariants
* A start-up key is changed in the file or environment it comes from, a cluster key here; no key is in both.
* Every change is in the history with who made it; the history keeps HISTORY_MAX changes. Restoring is a change like any other.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.cluster.identities import iso_seconds
from titans3.cluster.transaction import Transaction
from titans3.config.keys import keys
from titans3.model.setting import (
    FORMAT,
    HISTORY_MAX,
    SETTINGS,
    Setting,
    SettingChange,
    history_key,
    setting_key,
)
from titans3.query.errors import QueryError


class SettingShown(msgspec.Struct):
    """``scope``: ``cluster`` keys are changed here, ``start-up`` keys in the server's file or environment."""

    name: str
    scope: str
    value: Any
    default: Any
    is_default: bool
    summary: str


class NewValue(msgspec.Struct, forbid_unknown_fields=True):
    """Of a cluster key."""

    value: bool | int | str


class Change(msgspec.Struct):
    """``old`` and ``new`` are ``null`` where the key was not set, and so had its default."""

    number: int
    changed: str
    who: str
    name: str
    old: Any
    new: Any


class Restore(msgspec.Struct, forbid_unknown_fields=True):
    """The values as they were right after change ``number`` (0: before the first that is kept)."""

    number: int


async def list_config(call: AdminCall) -> list[SettingShown]:
    call.authorize("config/*", everywhere=True)
    return [_cluster(call, setting) for setting in SETTINGS.values()] + _start_up(call)


async def get_config(call: AdminCall) -> SettingShown:
    name = call.names["key"]
    call.authorize(f"config/{name}", everywhere=True)
    if name in SETTINGS:
        return _cluster(call, SETTINGS[name])
    for shown in _start_up(call):
        if shown.name == name:
            return shown
    raise _unknown(name)


async def set_config(call: AdminCall) -> SettingShown:
    setting = _setting(call)
    value = call.body(NewValue).value
    try:
        text = json.dumps(setting.checked(value))
    except ValueError as error:
        raise QueryError("ValidationError", f"{error}.") from error
    await _change(call, {setting.name: text})
    return _cluster(call, setting)


async def reset_config(call: AdminCall) -> SettingShown:
    setting = _setting(call)
    await _change(call, {setting.name: None})
    return _cluster(call, setting)


async def history(call: AdminCall) -> list[Change]:
    call.authorize("config/*", everywhere=True)
    changes = await call.directory.list_of(history_key(0), SettingChange)
    return [
        Change(
            change.number, iso_seconds(change.changed_ms), change.who, change.name, _loaded(change.old), _loaded(change.new)
        )
        for change in reversed(changes)
    ]


async def restore(call: AdminCall) -> list[SettingShown]:
    call.authorize("config/*", everywhere=True)
    number = call.body(Restore).number
    changes = await call.directory.list_of(history_key(0), SettingChange)
    if number and number not in [change.number for change in changes]:
        raise QueryError("NoSuchEntity", f"The history has no change {number}.")
    wanted: dict[str, str | None] = {}
    for change in reversed(changes):
        if change.number > number:
            wanted[change.name] = change.old  # the oldest of the changes since then says what was before
    known = {name: text for name, text in wanted.items() if name in SETTINGS}
    if known:
        await _change(call, known)
    return [_cluster(call, SETTINGS[name]) for name in sorted(known)]


def _setting(call: AdminCall) -> Setting:
    name = call.names["key"]
    call.authorize(f"config/{name}", everywhere=True)
    if name in SETTINGS:
        return SETTINGS[name]
    if any(key.path == name for key in keys()):
        raise QueryError("InvalidInput", f"{name} is a start-up key: it is set in the server's file or environment.")
    raise _unknown(name)


async def _change(call: AdminCall, wanted: dict[str, str | None]) -> None:
    """Set (JSON) or take away (``None``) keys, with their history."""

    async def change(transaction: Transaction) -> None:
        past = await transaction.list(history_key(0), SettingChange)
        number = past[-1][1].number if past else 0
        made = 0
        for name, new in wanted.items():
            old = await transaction.read_text(setting_key(name)) or None
            if old == new:
                continue
            made += 1
            number += 1
            if new is None:
                transaction.delete(setting_key(name))
            else:
                transaction.put_text(setting_key(name), new)
            entry = SettingChange(FORMAT, number, call.now_ms, call.caller.arn, name, old, new)
            transaction.create(history_key(number), entry)
        for key, _ in past[: max(0, len(past) + made - HISTORY_MAX)]:
            transaction.delete(key)

    await call.directory.transact(change)


def _cluster(call: AdminCall, setting: Setting) -> SettingShown:
    settings = call.server.settings
    return SettingShown(
        setting.name,
        "cluster",
        settings.value(setting.name),
        setting.default,
        setting.name not in settings.is_set,
        setting.summary,
    )


def _start_up(call: AdminCall) -> list[SettingShown]:
    config = call.server.config
    found = []
    for key in keys():
        value = getattr(getattr(config, key.section), key.name)
        shown = "***" if key.secret and value else value
        found.append(SettingShown(key.path, "start-up", shown, key.default, value == key.default, ""))
    return found


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _unknown(name: str) -> QueryError:
    return QueryError("NoSuchEntity", f"There is no key {name[:100]}.")


ROUTES = (
    Route(
        "GET",
        "/config",
        "titans3:GetConfig",
        list_config,
        "All keys: cluster keys, then start-up keys",
        gives=SettingShown,
        many=True,
    ),
    Route(
        "GET",
        "/config/history",
        "titans3:GetConfig",
        history,
        "Changes of cluster keys, newest first",
        gives=Change,
        many=True,
    ),
    Route(
        "POST",
        "/config/restore",
        "titans3:SetConfig",
        restore,
        "Cluster keys as they were after a change",
        Restore,
        SettingShown,
        many=True,
    ),
    Route("GET", "/config/{key}", "titans3:GetConfig", get_config, "A key", gives=SettingShown),
    Route("PUT", "/config/{key}", "titans3:SetConfig", set_config, "Set a cluster key", NewValue, SettingShown),
    Route("DELETE", "/config/{key}", "titans3:SetConfig", reset_config, "Back to the default", gives=SettingShown),
)
