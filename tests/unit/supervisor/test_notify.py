"""Notices to systemd."""

from __future__ import annotations

import os
import socket

import pytest

from titans3.supervisor.notify import notify


def test_an_abstract_socket_is_reached_and_a_reload_carries_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"titans3-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert notify("READY=1") and sock.recv(100) == b"READY=1"
        assert notify("RELOADING=1")
        first, second = sock.recv(100).decode().split("\n")
        assert first == "RELOADING=1" and int(second.removeprefix("MONOTONIC_USEC=")) > 0
    assert not notify("STOPPING=1")  # nobody listens any more: not worth an error


def test_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
