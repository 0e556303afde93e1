"""The real Prometheus against a real server: the scrape as documented, every metric, every query of the dashboards, and alerts that fire.

Invariants
* Rules are those of conf/prometheus, evaluated by Prometheus. In the short form only their ``for`` is shortened, so that a minute is
  enough; ``TITANS3_LONG=1`` runs ten minutes of warp (tests/clients/load.py) and leaves the rules as they are, but for those that
  wait an hour.
* Before anything is injected nothing fires but what the set-up is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme
import yaml
from botocore.exceptions import ClientError

from tests.clients.installed import ROOT, program
from tests.clients.load import Load
from tests.conformance.scraped import TOKEN, ask
from tests.conformance.served import Endpoint
from tests.faults.server import Server, free_port
from titans3.observe.board import PID
from titans3.observe.metrics import METRICS
from titans3.observe.requests import UNROUTED
from titans3.s3.operations import OPERATIONS

LONG = bool(os.environ.get("TITANS3_LONG"))
LOAD_SECONDS = 600.0 if LONG else 20.0
FIRING_SECONDS_MAX = 900.0 if LONG else 40.0

SERIES_MAX = 3_000  # of two workers, two volumes, three buckets and what warp asks for
BESIDE_S3 = {UNROUTED, "Query", "Options", "Health", "Metrics", "Admin"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if LONG else 300)]


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.loads(answer.read())["data"]

    def query(self, text: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=text)["result"]
        return found

    def firing(self) -> set[tuple[str, str]]:
        """(alert, instance) of all that fire."""
        alerts = self.get("/api/v1/alerts")["alerts"]
        return {(alert["labels"]["alertname"], alert["labels"].get("instance", "")) for alert in alerts if alert["state"] == "firing"}

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + FIRING_SECONDS_MAX
        while not condition():
            assert time.monotonic() < deadline, f"not within {FIRING_SECONDS_MAX} s: {what}; firing: {self.firing()}"
            time.sleep(0.5)

    def wait_firing(self, alert: str, instance: str) -> None:
        self.wait(lambda: (alert, instance) in self.firing(), f"{alert} fires for {instance}")


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def short_lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A server over TLS whose certificate ends in nine days, and which refuses nothing. It traces, to nobody."""
    folder = tmp_path_factory.mktemp("prometheus")
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1", not_after=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9))
    pair.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    pair.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    (folder / "token").write_text(TOKEN)
    env = {
        "TITANS3_S3__TLS_CERT": str(folder / "cert.pem"), "TITANS3_S3__TLS_KEY": str(folder / "key.pem"),
        "TITANS3_METRICS__TOKEN_FILE": str(folder / "token"), "TITANS3_TRACING__ENDPOINT": f"http://127.0.0.1:{free_port()}",
    }  # fmt: skip
    server = Server(folder / "data", env=env, tls=ssl.create_default_context(cafile=str(folder / "authority.pem")))
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield Endpoint(server, str(folder / "authority.pem"), server.credentials())
    finally:
        server.stop()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A server without room: its reserve is more than any disk has."""
    env = {"TITANS3_ENGINE__RESERVE_BYTES": "60TiB", "TITANS3_METRICS__TOKEN": TOKEN}
    server = Server(tmp_path_factory.mktemp("full") / "data", env=env)
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield Endpoint(server, "", server.credentials())
    finally:
        server.stop()


@pytest.fixture(scope="module")
def prometheus(short_lived: Endpoint, full: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """With the configuration that is shipped, but for targets, paths and time."""
    binary = program("debian", "prometheus")
    folder = tmp_path_factory.mktemp("tsdb")
    rules = (ROOT / "conf/prometheus/rules/titans3.yml").read_text(encoding="utf-8")
    which = "1h" if LONG else r"(?!30m)\w+"  # 30m: it looks hours ahead, of which seconds say nothing
    (folder / "rules.yml").write_text(re.sub(rf"^( +for:) {which}$", r"\1 3s", rules, flags=re.MULTILINE))
    (folder / "token").write_text(TOKEN)
    config = yaml.safe_load((ROOT / "conf/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(folder / "rules.yml")]
    (plain,) = config["scrape_configs"]
    plain["authorization"]["credentials_file"] = str(folder / "token")
    plain["static_configs"] = [{"targets": [f"127.0.0.1:{full.server.port}"]}]
    secure = {
        **plain, "job_name": "secure", "scheme": "https", "tls_config": {"ca_file": short_lived.authority},
        "static_configs": [{"targets": [f"127.0.0.1:{short_lived.server.port}"]}],
        "relabel_configs": [{"target_label": "job", "replacement": "titans3"}],
    }  # fmt: skip
    config["scrape_configs"].append(secure)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    found = Prometheus(port)

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{found.url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    try:
        until(is_ready, "Prometheus is ready")
        yield found
    finally:
        process.terminate()
        process.wait(30)


class Refusals:
    """What a server refuses, over and over, until it is told to stop: writes for want of room, signatures, tokens of scrapes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._stop = endpoint, threading.Event()
        self.instance = instance(endpoint)
        self._s3 = endpoint.client()
        self._s3.create_bucket(Bucket="refused")
        self.wrong = ""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0) and not self.wrong:
            try:
                for _ in range(10):
                    with pytest.raises(ClientError) as caught:
                        self._s3.put_object(Bucket="refused", Key="x", Body=b"x")
                    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 507
                assert ask(self._endpoint.url, "not-the-token-of-it")[0] == 401
                self._sign_wrongly(100)
            except Exception as error:  # noqa: BLE001 - told by the tests that wait for what it does
                self.wrong = repr(error)

    def _sign_wrongly(self, count: int) -> None:
        head = b"GET /load/x HTTP/1.1\r\nHost: x\r\nAuthorization: AWS NOBODY:bm90aGluZw==\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self._endpoint.server.port), 30) as connection:
            connection.sendall(head * count)
            answered = b""
            while answered.count(b"HTTP/1.1 403") < count:
                piece = connection.recv(65536)
                assert piece, answered[-500:]
                answered += piece


@pytest.fixture(scope="module")
def refusing(full: Endpoint) -> Iterator[Refusals]:
    refusals = Refusals(full)
    try:
        yield refusals
    finally:
        refusals.stop()


@pytest.fixture(scope="module")
def loaded(
    short_lived: Endpoint, prometheus: Prometheus, refusing: Refusals, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The instance under load, after LOAD_SECONDS of it; the load goes on. The other one refuses meanwhile: its alerts take as long."""
    load = Load(short_lived, tmp_path_factory.mktemp("load"), heavy=LONG)
    try:
        time.sleep(LOAD_SECONDS)
        assert not load.wrong, load.wrong
        assert not LONG or load.played
        print(f"load: {load.heavy or 'light'} {load.played}")
        yield instance(short_lived)
    finally:
        load.stop()


def instance(endpoint: Endpoint) -> str:
    return f"127.0.0.1:{endpoint.server.port}"


def test_both_targets_are_scraped_as_configured(loaded: str, prometheus: Prometheus, full: Endpoint) -> None:
    up = {sample["metric"]["instance"]: sample["value"][1] for sample in prometheus.query('up{job="titans3"}')}
    assert up == {loaded: "1", instance(full): "1"}


def test_every_documented_metric_is_in_prometheus(loaded: str, prometheus: Prometheus) -> None:
    found = {
        sample["metric"]["__name__"]
        for sample in prometheus.query(f'count by (__name__) ({{__name__=~"titans3_.+",instance="{loaded}"}})')
    }  # fmt: skip
    expected = set()
    for metric in METRICS.values():
        expected |= {f"{metric.name}{suffix}" for suffix in ("_bucket", "_sum", "_count")} if metric.bounds else {metric.name}
    assert found == expected
    told = prometheus.get("/api/v1/targets/metadata", match_target=f'{{instance="{loaded}"}}')
    assert {item["metric"]: item["type"] for item in told if item["metric"].startswith("titans3_")} == {
        # OpenMetrics, which Prometheus asks for, has counters without _total
        metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name: metric.kind
        for metric in METRICS.values()
    }


def test_no_series_comes_from_what_clients_do(loaded: str, prometheus: Prometheus, short_lived: Endpoint) -> None:
    """After all the load: of keys, connections and requests there is no label, and of every other value a bounded number."""
    match = {"match[]": f'{{__name__=~"titans3_.+",instance="{loaded}"}}'}
    series: list[dict[str, str]] = prometheus.get("/api/v1/series", **match)
    assert len(series) < SERIES_MAX
    values: dict[str, set[str]] = {}
    for labels in series:
        name = labels.pop("__name__")
        metric = METRICS.get(name) or METRICS[name.rpartition("_")[0]]
        assert labels.keys() - {"instance", "job", "le"} == set(metric.labels), (name, labels)
        for label, value in labels.items():
            values.setdefault(label, set()).add(value)
    assert values["worker"] | values["volume"] == {"0", "1"}
    assert {"load"} <= values["bucket"] <= {"load", "warp-bucket", "bench"}
    assert values["operation"] <= {*OPERATIONS, *BESIDE_S3}


def test_nothing_fires_that_was_not_injected(loaded: str, prometheus: Prometheus, short_lived: Endpoint) -> None:
    prometheus.wait_firing("Titans3CertificateExpires", loaded)
    time.sleep(5)
    alerts = [alert for alert in prometheus.get("/api/v1/alerts")["alerts"] if alert["labels"].get("instance") == loaded]
    assert {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"} == {"Titans3CertificateExpires"}, (
        alerts, prometheus.query(f'titans3_process_start_time_seconds{{instance="{loaded}"}}[1m]'), short_lived.server.tail(),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["cluster", "node", "bucket"])
def test_every_query_of_a_dashboard_returns_data(name: str, loaded: str, prometheus: Prometheus) -> None:
    document = json.loads((ROOT / f"conf/grafana/{name}.json").read_text(encoding="utf-8"))
    panels = [panel for panel in document["panels"] if panel["type"] != "row"]
    assert len(panels) >= 12
    for panel in panels:
        for target in panel["targets"]:
            text = target["expr"].replace("$instance", re.escape(loaded).replace("\\", "\\\\")).replace("$bucket", "load|.*")
            text = text.replace("$__rate_interval", "15s").replace("[1d]", "[15s]")
            found = prometheus.query(text)
            assert found, f"{panel['title']}: {text}"
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert all(label in sample["metric"] for sample in found), f"{panel['title']}: {label} of {found[0]}"
            assert not all(sample["value"][1] == "NaN" for sample in found), f"{panel['title']}: {text}"


def test_latencies_and_rates_are_plausible(loaded: str, prometheus: Prometheus) -> None:
    (rate,) = prometheus.query(f'sum(rate(titans3_requests_total{{instance="{loaded}",operation="PutObject"}}[10s]))')
    assert 1 < float(rate["value"][1]) < 100_000
    series = f'titans3_request_duration_seconds_bucket{{instance="{loaded}",operation="GetObject"}}'
    (median,) = prometheus.query(f"histogram_quantile(0.5, sum by (le) (rate({series}[10s])))")
    assert 0.0001 < float(median["value"][1]) < 1


def test_a_full_volume_and_refused_writes_fire(prometheus: Prometheus, refusing: Refusals) -> None:
    prometheus.wait_firing("Titans3VolumeFull", refusing.instance)
    prometheus.wait_firing("Titans3ServerErrors", refusing.instance)
    assert not refusing.wrong


def test_refused_signatures_and_tokens_fire(prometheus: Prometheus, refusing: Refusals) -> None:
    prometheus.wait_firing("Titans3AuthFailures", refusing.instance)
    prometheus.wait_firing("Titans3ScrapesRefused", refusing.instance)
    assert not refusing.wrong


def pid_of(endpoint: Endpoint, worker: int) -> int:
    board = endpoint.server.board()
    try:
        return board.get(worker, PID)
    finally:
        board.close()


def test_a_worker_that_stands_still_fires_and_its_return_ends_it(loaded: str, prometheus: Prometheus, short_lived: Endpoint) -> None:
    def scraping() -> dict[str, float]:
        text = f'sum by (worker) (titans3_requests_total{{instance="{loaded}",operation="Metrics",code="200"}})'
        return {sample["metric"]["worker"]: float(sample["value"][1]) for sample in prometheus.query(text)}

    before = scraping()
    time.sleep(3)
    after = scraping()
    busiest = max(after, key=lambda worker: after[worker] - before.get(worker, 0.0))  # it holds the connection of Prometheus
    pid = pid_of(short_lived, 1 - int(busiest))
    os.kill(pid, signal.SIGSTOP)
    try:
        down = f'titans3_worker_up{{instance="{loaded}"}} == 0 or up{{instance="{loaded}"}} == 0'
        prometheus.wait(lambda: prometheus.query(down), "it is seen")
        if LONG:  # the supervisor kills it after a minute, before the alert is due
            return
        prometheus.wait(lambda: {("Titans3WorkerDown", loaded), ("Titans3Down", loaded)} & prometheus.firing(), "a worker is down")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    over = {(alert, loaded) for alert in ("Titans3WorkerDown", "Titans3Down", "Titans3NotReady")}
    prometheus.wait(lambda: not over & prometheus.firing(), "it is over")


def test_workers_that_die_again_and_again_fire(loaded: str, prometheus: Prometheus, short_lived: Endpoint) -> None:
    for _ in range(3):
        pid = pid_of(short_lived, 1)
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: pid_of(short_lived, 1) not in (0, pid), "it is started again")  # type: ignore[misc]
        text = f'titans3_worker_up{{instance="{loaded}",worker="1"}} == 1'
        time.sleep(2)
        prometheus.wait(lambda text=text: prometheus.query(text), "it is scraped")  # type: ignore[misc]
    prometheus.wait_firing("Titans3WorkerRestarts", loaded)


def test_a_server_that_is_gone_fires(prometheus: Prometheus, full: Endpoint, refusing: Refusals) -> None:
    refusing.stop()
    assert full.server.stop() == 0
    prometheus.wait_firing("Titans3Down", instance(full))
