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
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1048576")
    found = _environment()
    assert found["MALLOC_TRIM_THRESHOLD_"] == "1048576", "what the operator says of the allocator holds"
    assert "planted-secret" not in found.values()
    assert found["TITANS3_LOG__LEVEL"] == "debug"
