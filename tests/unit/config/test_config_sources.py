"""Configuration from file, environment and options: precedence, bad values with their origin, and the way back to a file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from titans3.config.keys import keys, show
from titans3.config.schema import Config
from titans3.config.sources import load
from titans3.errors import ConfigError
from titans3.limits import GIB, KIB, MIB
from titans3.model.names import is_bucket_name


def write(folder: Path, text: str) -> str:
    file = folder / "titans3.toml"
    file.write_text(text)
    return str(file)


def refusal(file: str | None = None, environment: dict[str, str] | None = None, flags: dict[str, object] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, environment=environment or {}, flags=flags)
    return str(caught.value)


def test_nothing_given_is_all_defaults() -> None:
    config, origins = load(None, environment={})
    assert config == Config()
    assert {origins.of(key.path) for key in keys()} == {"default"}
    assert (config.node.data, config.s3.listen, config.node.workers) == (("./titans3-data",), ("127.0.0.1:9000",), 0)


def test_option_beats_environment_beats_file_beats_default_key_by_key(tmp_path: Path) -> None:
    file = write(tmp_path, '[node]\nworkers = 1\ndrain_seconds = 11\ndata = ["/file"]\n[s3]\nregion = "file"\nlisten = ["[::]:1", ":1"]\n')
    environment = {"TITANS3_NODE__WORKERS": "2", "TITANS3_NODE__DATA": "/environment", "TITANS3_S3__LISTEN": "h:1, i:2", "HOME": "/x"}
    config, origins = load(file, environment=environment, flags={"node.workers": 3})
    assert (config.node.workers, origins.of("node.workers")) == (3, "--workers")
    assert (config.node.data, origins.of("node.data")) == (("/environment",), "TITANS3_NODE__DATA")
    assert config.s3.listen == ("h:1", "i:2")  # a list is replaced, so the file's bad address is gone with it
    assert (config.s3.region, origins.of("s3.region")) == ("file", file)
    assert config.node.drain_seconds == 11.0
    assert origins.of("log.level") == "default"


def test_every_key_can_be_set_from_the_environment(tmp_path: Path) -> None:
    cert, private = certificate(tmp_path)
    texts = {
        "node.data": "/d", "s3.listen": "[::1]:9", "s3.domains": "s3.example.org,b.example.org", "s3.region": "r",
        "node.digest_lanes": "false",
        "s3.require_region": "true", "engine.kernel_sync": "false", "s3.buckets": "photos,docs", "s3.tls_cert": cert, "s3.tls_key": private,
        "s3.trusted_proxies": "10.0.0.0/8,::1", "s3.signature_v2": "false",
        "s3.object_ownership": "BucketOwnerEnforced", "log.level": "debug", "log.format": "json",
        "metrics.token": "t" * 16, "metrics.token_file": __file__, "metrics.public": "true",
        "audit.enabled": "false", "access_log.format": "s3", "tracing.endpoint": "http://[::1]:4318", "tracing.ratio": "0.5",
        "tracing.trusted": "10.0.0.0/8",
        "audit.webhook_url": "https://a.example.org/x", "audit.webhook_ca": cert,
        "audit.webhook_token": "t" * 16, "audit.webhook_token_file": __file__,
    }  # fmt: skip
    environment = {}
    for key in keys():
        environment[key.variable] = texts.get(key.path) or {"bytes": "1MiB", "seconds": "3s"}.get(key.unit, "123")
    environment |= {"TITANS3_ENGINE__LOG_SEGMENT_BYTES": "32MiB", "TITANS3_ENGINE__DATA_SEGMENT_BYTES": "33MiB"}
    instead = {name: environment.pop(name) for name in ["TITANS3_METRICS__TOKEN_FILE", "TITANS3_AUDIT__WEBHOOK_TOKEN_FILE"]}  # of tokens
    instead["TITANS3_AUDIT__ENABLED"] = environment.pop("TITANS3_AUDIT__ENABLED")  # a webhook has nothing to deliver without
    config, origins = load(None, environment=environment)
    for key in keys():
        if key.variable not in instead:
            assert getattr(getattr(config, key.section), key.name) != key.default, key.path
            assert origins.of(key.path) == key.variable
    config_instead = load(None, environment=instead)[0]
    assert config_instead.metrics.token_file == config_instead.audit.webhook_token_file == __file__
    assert config_instead.audit.enabled is False
    assert config.s3.buckets == ("photos", "docs") and config.s3.require_region is True
    assert config.engine.reserve_bytes == MIB and config.engine.checkpoint_rows == 123


def test_data_variable_is_short_for_the_key_but_not_beside_it() -> None:
    config, origins = load(None, environment={"TITANS3_DATA": "/short"})
    assert (config.node.data, origins.of("node.data")) == (("/short",), "TITANS3_DATA")
    assert "set one of them" in refusal(environment={"TITANS3_DATA": "/a", "TITANS3_NODE__DATA": "/b"})


def test_credentials_and_failpoints_are_not_configuration() -> None:
    environment = {
        "TITANS3_ROOT_ACCESS_KEY": "a", "TITANS3_ROOT_SECRET_KEY": "a__b", "TITANS3_FAILPOINT": "flush=kill", "TITANS3_FAILPOINT_LOG": "/x",
        "TITANS3_POWERLOSS_RUNS": "3",
    }  # fmt: skip
    assert load(None, environment=environment)[0] == Config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[nod]\nworkers = 1", "nod is not a section; did you mean [node]?"),
        ("[zzz]\n", "zzz is not a section; there are node, s3, http, engine, kms, metrics, access_log, audit, tracing, log"),
        ("region = 'x'", "region stands outside of a section; did you mean s3.region?"),
        ("s3 = 1", "s3 is a section: write [s3]"),
        ("[s3]\nregoin = 'x'", "s3.regoin is not a key; did you mean s3.region?"),
        ("[node]\nregion = 'x'", "node.region is not a key; did you mean s3.region?"),
        ("[node]\nbuckets = []", "node.buckets is not a key; did you mean s3.buckets?"),
        ("[http.deep]\nx = 1", "http.deep is not a key"),
        ("[s3]\nqqqqqqqq = 1", "lists all"),
        ("[s3]\nregion = ", "not TOML"),
        ("[s3]\nregion = 5", "s3.region = 5 is not a text in quotes"),
        ("[s3]\nregion = ''", "s3.region: '' is not a region name"),
        ("[s3]\nregion = 'a/b'", "s3.region: 'a/b' is not a region name"),
        ("[s3]\nrequire_region = 'yes'", "s3.require_region = 'yes' is not true or false"),
        ("[s3]\nrequire_region = 1", "s3.require_region = 1 is not true or false"),
        ("[s3]\nlisten = '127.0.0.1:9000'", "s3.listen = '127.0.0.1:9000' is not a list of texts, such as [\"127.0.0.1:9000\"]"),
        ("[s3]\nlisten = [9000]", "s3.listen = [9000] is not a list of texts"),
        ("[s3]\nlisten = []", "s3.listen: at least one address is needed"),
        ("[s3]\nlisten = ['9000']", "'9000' is not HOST:PORT"),
        ("[s3]\nlisten = [':9000']", "':9000' is not HOST:PORT"),
        ("[s3]\nlisten = ['::1:9000']", "an IPv6 address stands in brackets: [::1]:9000"),
        ("[s3]\nlisten = ['[::g]:9000']", "'[::g]' in '[::g]:9000' is not an IPv6 address"),
        ("[s3]\nlisten = ['h:65536']", "'65536' in 'h:65536' is not a port, 0 to 65535"),
        ("[s3]\nlisten = ['h:-1']", "is not a port"),
        ("[s3]\nlisten = ['256.0.0.1:80']", "'256.0.0.1' in '256.0.0.1:80' is not a host name or address"),
        ("[s3]\nlisten = ['a b:80']", "is not a host name or address"),
        ("[s3]\nlisten = ['h:80', 'h:80']", "s3.listen: h:80 is there twice"),
        ("[s3]\ndomains = ['S3.example.org']", "not a domain name in lower case"),
        ("[s3]\ndomains = ['example.org:9000']", "without port"),
        ("[s3]\nbuckets = ['Photos']", "s3.buckets: 'Photos' is not a bucket name"),
        ("[s3]\nbuckets = ['health']", "s3.buckets: 'health' is reserved"),
        ("[s3]\ntrusted_proxies = ['10.0.0.1/8']", "s3.trusted_proxies: '10.0.0.1/8' is not an address or network"),
        ("[s3]\ntls_cert = 'a.pem'", "s3.tls_cert: a certificate and its key are given together; s3.tls_key is missing"),
        ("[s3]\ntls_key = 'a.pem'", "s3.tls_key: a certificate and its key are given together; s3.tls_cert is missing"),
        ("[s3]\ntls_cert = '/no/cert.pem'\ntls_key = '/no/key.pem'", "s3.tls_cert: /no/cert.pem is not there, or not a file"),
        ("[node]\nworkers = -1", "node.workers = -1 is too small: 0 is the least"),
        ("[node]\nworkers = 257", "node.workers = 257 is too large: 256 is the most"),
        ("[node]\nworkers = 1.5", "node.workers = 1.5 is not a whole number"),
        ("[node]\nworkers = true", "node.workers = True is not a whole number"),
        ("[node]\nworkers = 'two'", "node.workers = 'two' is not a whole number"),
        ("[node]\ndata = []", "node.data: a path is needed"),
        ("[node]\ndata = ['']", "node.data: a path is needed"),
        ("[node]\ndata = ['/a', '/b']", "node.data: 2 paths were given; several disks need erasure coding"),
        ("[node]\ndata = ['~/data']", "'~' means something to a shell only"),
        ('[node]\ndata = ["a\\u0000b"]', "is not text in UTF-8"),
        ("[node]\ndrain_seconds = 'soon'", "node.drain_seconds: 'soon' is not a duration such as 5s"),
        ("[node]\ndrain_seconds = '5 parsecs'", "is not a duration such as 5s"),
        ("[node]\ndrain_seconds = -1", "node.drain_seconds = -1 is too small: 0s is the least"),
        ("[node]\ndrain_seconds = []", "node.drain_seconds = [] is not a duration such as 5s"),
        ("[http]\nhead_seconds = nan", "http.head_seconds = nan is too small"),
        ("[http]\nhead_seconds = inf", "http.head_seconds = inf is too large: 86400s is the most"),
        ("[http]\nhead_seconds = 0", "http.head_seconds = 0 is too small: 0.1s is the least"),
        ("[http]\nconnections_max = 0", "http.connections_max = 0 is too small: 1 is the least"),
        ("[http]\nconnections_max = 10_000_000", "http.connections_max = 10000000 is too large: 1,000,000 is the most"),
        ("[engine]\nsmall_body_bytes = '2MiB'", "engine.small_body_bytes = 2097152 is too large: 1MiB is the most"),
        ("[engine]\nsmall_body_bytes = '1.0001KiB'", "'1.0001KiB' is not a whole number of bytes"),
        ("[engine]\nsmall_body_bytes = 'auto'", "'auto' is not a size such as 64MiB"),
        ("[engine]\nsmall_body_bytes = '-1'", "'-1' is not a size such as 64MiB"),
        ("[engine]\nlog_segment_bytes = '1MiB'", "engine.log_segment_bytes = 1048576 is too small: 16MiB is the least"),
        ("[engine]\nlog_segment_bytes = 150000000.5", "engine.log_segment_bytes = 150000000.5 is not a size such as 64MiB"),
        ("[engine]\nreserve_bytes = -2", "engine.reserve_bytes = -2 is too small: 0 is the least"),
        ("[engine]\nreserve_bytes = 'all'", "'all' is not a size such as 64MiB or auto"),
        ("[log]\nlevel = 'warn'", "log.level = 'warn' is not one of debug, info, warning, error; did you mean warning?"),
        ("[log]\nlevel = 'INFO'", "did you mean info?"),
        ("[log]\nformat = 'xml'", "log.format = 'xml' is not one of text, json"),
    ],
)
def test_a_bad_file_is_refused_with_file_key_and_reason(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path, text)
    message = refusal(file)
    assert message.startswith(f"{file}: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("TITANS3_S3__REGIN", "x", "no such variable; did you mean TITANS3_S3__REGION?"),
        ("TITANS3_S3_REGION", "x", "no such variable; did you mean TITANS3_S3__REGION?"),
        ("TITANS3_WHAT__EVER", "x", "no such variable"),
        ("TITANS3_NODE__WORKERS", "two", "node.workers: 'two' is not a whole number"),
        ("TITANS3_NODE__WORKERS", "", "node.workers: '' is not a whole number"),
        ("TITANS3_NODE__WORKERS", "999", "node.workers = 999 is too large"),
        ("TITANS3_NODE__DATA", "/a,/b", "node.data: 2 paths were given"),
        ("TITANS3_NODE__DATA", "", "node.data: a path is needed"),
        ("TITANS3_DATA", "\udcff", "is not text in UTF-8"),
        ("TITANS3_S3__REQUIRE_REGION", "maybe", "s3.require_region: 'maybe' is not true or false"),
        ("TITANS3_HTTP__HEAD_SECONDS", "fast", "http.head_seconds: 'fast' is not a duration"),
        ("TITANS3_ENGINE__RESERVE_BYTES", "-2", "'-2' is not a size such as 64MiB or auto"),
        ("TITANS3_LOG__LEVEL", "loud", "log.level = 'loud' is not one of"),
        ("TITANS3_S3__LISTEN", "9000", "s3.listen: '9000' is not HOST:PORT"),
    ],
)
def test_a_bad_variable_is_refused_with_its_name(variable: str, text: str, expected: str) -> None:
    message = refusal(environment={variable: text})
    assert message.startswith(f"{variable}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("node.data", ("/a", "/b"), "--data: node.data: 2 paths were given"),
        ("node.workers", 1000, "--workers: node.workers = 1000 is too large: 256 is the most"),
        ("s3.listen", ("nine",), "--s3: s3.listen: 'nine' is not HOST:PORT"),
        ("s3.buckets", ("a",), "--bucket: s3.buckets: 'a' is not a bucket name"),
        ("s3.tls_cert", "/no/file", "--tls-cert: s3.tls_cert: a certificate and its key are given together"),
    ],
)
def test_a_bad_option_is_refused_with_its_name(path: str, value: object, expected: str) -> None:
    assert refusal(flags={path: value}).startswith(expected)


@pytest.mark.parametrize(("name", "word"), [("none.toml", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, word: str) -> None:
    message = refusal(str(tmp_path / name))
    assert message.startswith(str(tmp_path)) and word in message


def test_bytes_that_are_no_text_and_endless_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"# caf\xe9\n")
    assert "not TOML" in refusal(str(tmp_path / "latin"))
    assert "larger than 1 MiB" in refusal("/dev/zero")


def test_auto_and_units(tmp_path: Path) -> None:
    text = '[engine]\nreserve_bytes = "auto"\nlog_segment_bytes = "1 GiB"\nsmall_body_bytes = "10kB"\ncheckpoint_bytes = 5000000\n'
    engine = load(write(tmp_path, text + '[http]\nidle_seconds = "1.5m"\nhead_seconds = 5\n'), environment={})[0].engine
    assert (engine.reserve_bytes, engine.log_segment_bytes) == (-1, GIB)
    assert (engine.small_body_bytes, engine.checkpoint_bytes) == (10_000, 5_000_000)
    assert load(None, environment={"TITANS3_ENGINE__RESERVE_BYTES": "auto"})[0].engine.reserve_bytes == -1
    assert load(None, environment={"TITANS3_ENGINE__RESERVE_BYTES": "-1"})[0].engine.reserve_bytes == -1
    assert load(None, environment={"TITANS3_ENGINE__RESERVE_BYTES": "0"})[0].engine.reserve_bytes == 0


def certificate(folder: Path, name: str = "localhost") -> tuple[str, str]:
    issued = trustme.CA().issue_cert(name)
    cert, private = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    private.write_bytes(issued.private_key_pem.bytes())
    return str(cert), str(private)


def test_certificate_and_key_must_be_pem_and_belong_together(tmp_path: Path) -> None:
    cert, private = certificate(tmp_path)
    _, other = certificate(tmp_path, "other")
    config, _ = load(None, environment={}, flags={"s3.tls_cert": cert, "s3.tls_key": private})
    assert (config.s3.tls_cert, config.s3.tls_key) == (cert, private)
    assert "the key does not belong to the certificate" in refusal(flags={"s3.tls_cert": cert, "s3.tls_key": other})
    junk = tmp_path / "junk"
    junk.write_text("junk")
    assert "not a PEM certificate" in refusal(flags={"s3.tls_cert": str(junk), "s3.tls_key": private})
    assert "not a PEM" in refusal(flags={"s3.tls_cert": cert, "s3.tls_key": str(junk)})
    assert "is not there, or not a file" in refusal(flags={"s3.tls_cert": str(tmp_path), "s3.tls_key": private})


def test_a_locked_key_is_refused_and_nobody_is_asked_for_a_passphrase(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    cert, private = certificate(tmp_path)
    key = load_pem_private_key(Path(private).read_bytes(), None)
    Path(private).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")))
    assert "locked with a passphrase" in refusal(flags={"s3.tls_cert": cert, "s3.tls_key": private})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text("abz09.-_H", max_size=9) | st.text(max_size=5) | st.sampled_from(["health", "192.168.5.4", "a" * 63, "a" * 64, "1.2.3"]))
def test_bucket_names_are_those_that_create_bucket_takes(name: str) -> None:
    try:
        load(None, environment={}, flags={"s3.buckets": (name,)})
    except ConfigError:
        assert not is_bucket_name(name)
    else:
        assert is_bucket_name(name)


_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_changes = st.fixed_dictionaries(
    {},
    optional={
        "node.data": st.tuples(_texts.map(lambda text: "/" + text)),
        "node.workers": st.integers(0, 256),
        "node.drain_seconds": st.floats(0, 86_400),
        "s3.listen": st.lists(st.sampled_from(["[::]:9000", "127.0.0.1:0", "h.example:1"]), min_size=1, unique=True).map(tuple),
        "s3.require_region": st.booleans(),
        "s3.buckets": st.lists(st.sampled_from(["photos", "a.b-c"])).map(tuple),
        "http.idle_seconds": st.floats(0.1, 86_400),
        "engine.small_body_bytes": st.integers(0, MIB),
        "engine.reserve_bytes": st.integers(-1, 2**46),
        "engine.checkpoint_bytes": st.integers(MIB, 64 * MIB) | st.sampled_from([64 * MIB + KIB]),
        "log.level": st.sampled_from(["debug", "error"]),
    },
)


@settings(max_examples=200, deadline=None)
@given(_changes)
def test_what_show_prints_loads_as_the_same_configuration(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object]) -> None:
    config, origins = load(None, environment={}, flags=changes)
    file = tmp_path_factory.getbasetemp() / "shown.toml"
    file.write_text(show(config, origins))
    assert load(str(file), environment={})[0] == config


def test_show_names_the_origin_of_every_value(tmp_path: Path) -> None:
    file = write(tmp_path, "[node]\nworkers = 3\n")
    lines = show(*load(file, environment={"TITANS3_S3__REGION": "x"}, flags={"s3.buckets": ("photos",)})).splitlines()
    assert f"workers = 3  # {file}" in lines
    assert 'region = "x"  # TITANS3_S3__REGION' in lines
    assert 'buckets = ["photos"]  # --bucket' in lines
    assert 'reserve_bytes = "auto"  # default' in lines
    assert 'head_seconds = "20s"  # default' in lines
    assert len(lines) == len(keys()) + 10 + 9  # ten sections, nine blank lines


SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"token = '{SECRET}'\ntoken_file = '/x'", "metrics.token_file: metrics.token is given, too: one of them"),
        (f"token = '{SECRET} x'", "metrics.token: a token has 16 to 1,024 characters"),
        (f"token = ['{SECRET}']", "metrics.token is not a text in quotes"),
        ("token_file = '/not/there'", "metrics.token_file: /not/there is not there"),
        ("buckets_max = 10001", "metrics.buckets_max = 10001 is too large: 10,000 is the most"),
    ],
)
def test_a_bad_metrics_section_is_refused_without_showing_the_token(tmp_path: Path, text: str, expected: str) -> None:
    told = refusal(file=write(tmp_path, "[metrics]\n" + text))
    assert expected in told and SECRET not in told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('webhook_url = "audit.example.org"', "audit.webhook_url: it is not an address such as"),
        ('webhook_url = "ftp://audit.example.org/"', "it is not an address such as"),
        ('webhook_url = "https://audit.example.org:0/"', "port 0 is none"),
        ('webhook_url = "https://audit.example.org:99999/"', "audit.webhook_url: Port out of range"),
        (f'webhook_url = "https://name:{SECRET}@audit.example.org/"', "no name, password, query or fragment in it"),
        (f'webhook_url = "https://audit.example.org/?key={SECRET}"', "no name, password, query or fragment in it"),
        (f'webhook_url = "https://a.example.org/"\nwebhook_token = "{SECRET} "', "audit.webhook_token: a token has 16 to 1,024 characters"),
        (f'webhook_token = "{SECRET}"\nwebhook_token_file = "x"', "audit.webhook_token is given, too: one of them"),
        ('webhook_token_file = "/not/there"', "audit.webhook_token_file: /not/there is not there"),
        ('webhook_url = "https://a.example.org/"\nwebhook_ca = "/not/there"', "audit.webhook_ca: /not/there gives no certificates"),
        ('webhook_url = "https://a.example.org/"\nenabled = false', "there is nothing to deliver: audit.enabled is false"),
    ],
)
def test_a_bad_webhook_is_refused_without_showing_a_secret(tmp_path: Path, text: str, expected: str) -> None:
    told = refusal(file=write(tmp_path, "[audit]\n" + text))
    assert expected in told and SECRET not in told


def test_a_webhook_without_its_extra_is_refused_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "aiohttp" else find_spec(name))
    told = refusal(environment={"TITANS3_AUDIT__WEBHOOK_URL": "https://audit.example.org/"})
    assert "audit.webhook_url: webhooks need an extra: pip install 'titans3[webhook]'" in told


def test_show_says_that_a_token_is_set_and_not_what_it_is(tmp_path: Path) -> None:
    config, origins = load(None, environment={"TITANS3_METRICS__TOKEN": SECRET})
    shown = show(config, origins)
    assert '# token = "***"  # TITANS3_METRICS__TOKEN' in shown
    assert SECRET not in shown + repr(config)
    other, origins = load(None, environment={"TITANS3_AUDIT__WEBHOOK_TOKEN": SECRET})
    assert SECRET not in show(other, origins) + repr(other)
    file = tmp_path / "shown.toml"
    file.write_text(shown)
    assert load(str(file), environment={})[0].metrics.token == ""


@pytest.mark.parametrize(
    ("endpoint", "word"),
    [("127.0.0.1:4318", "is not an address such as"), ("ftp://x/", "is not an address such as"), ("http://", "is not an address such as"),
     ("http://x:0", "has no port"), ("http://x:99999", "ort out of range"), ("http://me:hunter2@x", "a password does not belong")],
)  # fmt: skip
def test_a_collector_has_an_address_without_a_password(endpoint: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, environment={"TITANS3_TRACING__ENDPOINT": endpoint})
    assert word in str(caught.value) and "hunter2" not in str(caught.value)
    assert str(caught.value).startswith("TITANS3_TRACING__ENDPOINT: tracing.endpoint: ")


def test_a_number_with_a_point_is_read_from_the_environment() -> None:
    config, _ = load(None, environment={"TITANS3_TRACING__RATIO": "0.25", "TITANS3_TRACING__ENDPOINT": "https://collector.example:4318"})
    assert config.tracing.ratio == 0.25
    for text, word in (("x", "is not a number"), ("1.5", "too large"), ("nan", "too small")):
        with pytest.raises(ConfigError, match=word):
            load(None, environment={"TITANS3_TRACING__RATIO": text})
