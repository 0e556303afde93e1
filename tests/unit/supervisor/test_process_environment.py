"""What a worker's environment holds: what the operator gave, but no secret."""

from __future__ import annotations

import pytest

from titans3.config.keys import keys
from titans3.supervisor.process import _environment


def test_a_worker_gets_the_environment_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = [key.variable for key in keys() if key.secret]
    assert {"TITANS3_METRICS__TOKEN", "TITANS3_AUDIT__WEBHOOK_TOKEN"} <= set(secret)
    for name in (*secret, "TITANS3_ROOT_ACCESS_KEY", "TITANS3_ROOT_SECRET_KEY", "TITANS3_KMS_PASSPHRASE"):
        monkeypatch.setenv(name, "planted-secret")
    monkeypatch.setenv("TITANS3_LOG__LEVEL", "debug")
    found = _environment()
    assert "planted-secret" not in found.values()
    assert found["TITANS3_LOG__LEVEL"] == "debug"
