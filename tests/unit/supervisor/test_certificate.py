"""The certificate that workers use: as it was when it was last good, whatever the files have become."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import msgspec
import pytest
import trustme

from titans3.config.schema import AuditConfig, Config, S3Config
from titans3.errors import ConfigError
from titans3.supervisor.certificate import Certificate
from titans3.worker.certificates import server_context


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = trustme.CA().issue_cert("localhost")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    made.private_key_pem.write_to_path(tmp_path / "key")
    return Config(s3=S3Config(tls_cert=str(tmp_path / "cert"), tls_key=str(tmp_path / "key")))


def test_workers_read_what_was_good(config: Config, tmp_path: Path) -> None:
    certificate = Certificate()
    told = certificate.take(config)
    good = (tmp_path / "cert").read_bytes()
    (tmp_path / "cert").write_text("broken")
    with pytest.raises(ConfigError, match=f"{tmp_path}/cert and {tmp_path}/key do not load"):
        certificate.take(config)
    (tmp_path / "key").unlink()
    with pytest.raises(ConfigError, match="No such file"):
        certificate.take(config)
    assert Path(told.s3.tls_cert).read_bytes() == good
    context = server_context(told.s3)
    assert context is not None and context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_without_a_certificate_there_is_nothing_to_take() -> None:
    assert Certificate().take(Config()) == Config()
    assert server_context(Config().s3) is None


def test_a_pair_before_the_last_is_let_go(config: Config) -> None:
    certificate = Certificate()
    before = len(os.listdir("/proc/self/fd"))
    told = [certificate.take(config) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before + 4  # the last pair, and the one that a worker may just be reading
    for kept in told[-2:]:
        assert server_context(kept.s3) is not None


def test_authorities_of_the_webhook_are_kept_the_same_way(config: Config, tmp_path: Path) -> None:
    certificate = Certificate()
    trustme.CA().cert_pem.write_to_path(tmp_path / "authority")
    good = (tmp_path / "authority").read_bytes()
    both = msgspec.structs.replace(config, audit=AuditConfig(webhook_ca=str(tmp_path / "authority")))
    told = certificate.take(both)
    (tmp_path / "authority").write_text("broken")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError, match=f"audit.webhook_ca: {tmp_path}/authority does not load"):
        certificate.take(both)
    assert len(os.listdir("/proc/self/fd")) == before
    assert Path(told.audit.webhook_ca).read_bytes() == good
    assert server_context(told.s3) is not None
