"""Alert rules: each fires on what it is for and not on what is near it, by ``promtool test rules``; each has its page.

Invariants
* A case is a list of series and what must fire at a time; labels and annotations of what fires are compared whole, so templates are, too.
"""

# ruff: noqa: E501

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clients.installed import ROOT, program
from titans3.observe.metrics import HISTOGRAM, METRICS

RULES = ROOT / "conf/prometheus/rules/titans3.yml"
RUNBOOKS = ROOT / "docs/runbooks"
I = 'instance="a"'  # noqa: E741 - short, because it is in every series


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@dataclass
class Case:
    """``series``: name and values in promtool's notation, a sample a minute. ``fires``: labels besides the instance, ``None``: nothing fires."""

    alert: str
    series: dict[str, str]
    at: str
    fires: dict[str, str] | None
    value: str = ""  # as the summary shows it
    wants: dict[str, str] = field(default_factory=dict)


def histogram(name: str, labels: str, fast: int, slow: int, bound: str) -> dict[str, str]:
    """Each minute so many values up to ``bound`` and so many above all."""
    return {
        f'{name}_bucket{{{I},{labels},le="{bound}"}}': f"0+{fast}x60",
        f'{name}_bucket{{{I},{labels},le="+Inf"}}': f"0+{fast + slow}x60",
    }


def pair(alert: str, series: str, bad: str, good: str, at: str, fires: dict[str, str], value: str = "") -> list[Case]:
    """One series that fires it, and that does not."""
    return [Case(alert, {series: bad}, at, fires, value), Case(alert, {series: good}, at, None)]


def of_worker(name: str) -> str:
    return f'{name}{{{I},worker="1"}}'


def of_volume(name: str) -> str:
    return f'{name}{{{I},volume="0"}}'


def of_bucket(word: str) -> str:
    return f'titans3_bucket_{word}_bytes{{{I},bucket="b"}}'


W, V = {"worker": "1"}, {"volume": "0"}
SLOW = "titans3_request_duration_seconds", 'operation="PutObject",worker="1"'
FLUSH = "titans3_log_flush_duration_seconds", 'volume="0"'
LAG = "titans3_loop_lag_seconds", 'worker="1"'
GIB = 1 << 30
CASES = [
    *pair("Titans3Down", f'up{{{I},job="titans3"}}', "1 1 0x10", "1x10", "5m", {"job": "titans3"}),
    Case("Titans3Down", {f'up{{{I},job="other"}}': "0x10"}, "5m", None),
    *pair("Titans3WorkerDown", of_worker("titans3_worker_up"), "0x10", "1 0 1x10", "5m", W),
    *pair("Titans3NotReady", f"titans3_ready{{{I}}}", "0x10", "0 1x10", "5m", {}),
    *pair("Titans3WorkerRestarts", of_worker("titans3_process_start_time_seconds"), "100 100 200 300 400 400x10", "1 2 3x20", "10m", W, "3"),
    Case("Titans3ServerErrors", {of_worker("titans3_server_errors_total"): "0+2x30", f'titans3_requests_total{{{I},code="200"}}': "0+100x30"},
         "15m", {}, "2%"),
    Case("Titans3ServerErrors", {of_worker("titans3_server_errors_total"): "0+1x30", f'titans3_requests_total{{{I},code="200"}}': "0+200x30"},
         "15m", None),
    *pair("Titans3HandlerErrors", of_worker("titans3_handler_errors_total"), "0 0 1x10", "3x10", "5m", W),
    Case("Titans3SlowRequests", histogram(*SLOW, 90, 10, "2.5"), "30m", None),  # the largest bound known is 2.5
    Case("Titans3SlowRequests", {**histogram(*SLOW, 90, 0, "2.5"), f'{SLOW[0]}_bucket{{{I},{SLOW[1]},le="10"}}': "0+100x60",
                                 f'{SLOW[0]}_bucket{{{I},{SLOW[1]},le="+Inf"}}': "0+100x60"}, "30m", {"operation": "PutObject"}),
    Case("Titans3SlowDisk", {**histogram(*FLUSH, 90, 0, "0.5"), f'{FLUSH[0]}_bucket{{{I},{FLUSH[1]},le="1"}}': "0+100x60",
                             f'{FLUSH[0]}_bucket{{{I},{FLUSH[1]},le="+Inf"}}': "0+100x60"}, "30m", V),
    Case("Titans3SlowDisk", histogram(*FLUSH, 100, 0, "0.5"), "30m", None),
    Case("Titans3LoopLag", {**histogram(*LAG, 90, 0, "0.25"), f'{LAG[0]}_bucket{{{I},{LAG[1]},le="0.5"}}': "0+100x60",
                            f'{LAG[0]}_bucket{{{I},{LAG[1]},le="+Inf"}}': "0+100x60"}, "30m", W),
    Case("Titans3LoopLag", histogram(*LAG, 600, 0, "0.25"), "30m", None),
    *(Case("Titans3VolumeBroken", {f'titans3_volume_state{{{I},volume="0",state="{state}"}}': "0 1x5"}, "2m", {**V, "state": state})
      for state in ("failed", "damaged")),
    Case("Titans3VolumeBroken", {f'titans3_volume_state{{{I},volume="0",state="full"}}': "0 1x5"}, "2m", None),
    Case("Titans3VolumeAway", {f'titans3_volume_state{{{I},volume="0",state="closed"}}': "1x20"}, "10m", {**V, "state": "closed"}),
    Case("Titans3VolumeAway", {f'titans3_volume_state{{{I},volume="0",state="opening"}}': "1 1 0x20"}, "10m", None),
    *pair("Titans3VolumeFull", f'titans3_volume_state{{{I},volume="0",state="full"}}', "0 1x5", "0x5", "2m", {**V, "state": "full"}),
    *pair("Titans3LogWaits", of_volume("titans3_volume_log_waits"), "0 1x5", "0x5", "2m", V),
    Case("Titans3VolumeFillsUp", {of_volume("titans3_volume_room_bytes"): f"{20 * GIB}-{GIB // 60}x600",
                                  of_volume("titans3_volume_filesystem_bytes"): f"{100 * GIB}x600"}, "8h", V),
    Case("Titans3VolumeFillsUp", {of_volume("titans3_volume_room_bytes"): f"{90 * GIB}-{GIB // 60 * 3}x600",
                                  of_volume("titans3_volume_filesystem_bytes"): f"{100 * GIB}x600"}, "4h", None),
    Case("Titans3QuotaNear", {of_bucket("stored"): "80x40", of_bucket("upload"): "11x40", of_bucket("quota"): "100x40"}, "30m",
         {"bucket": "b"}, "91%"),
    Case("Titans3QuotaNear", {of_bucket("stored"): "80x40", of_bucket("upload"): "10x40", of_bucket("quota"): "100x40"}, "30m", None),
    Case("Titans3QuotaNear", {of_bucket("stored"): "80x40", of_bucket("upload"): "11x40", of_bucket("quota"): "0x40"}, "30m", None),
    *pair("Titans3GroupsDamaged", of_volume("titans3_groups_damaged"), "0 2x5", "0x5", "2m", V, "2"),
    *pair("Titans3BodiesDamaged", of_volume("titans3_damaged_bodies_total"), "0 1x5", "0x5", "2m", V),
    *pair("Titans3BodiesDamaged", of_worker("titans3_damaged_extents_total"), "0 1x5", "0x5", "2m", W),
    *pair("Titans3RecoveryLost", of_volume("titans3_recovery_lost"), "1x5", "0x5", "2m", V),
    *pair("Titans3CheckpointLate", of_volume("titans3_checkpoint_age_seconds"), "0+30x20", "2 3600 0x20", "10m", V),
    *pair("Titans3WritesPaced", of_volume("titans3_write_delay_seconds"), "0.1x20", "0.2 0x20", "10m", V, "100ms"),
    *pair("Titans3ControlStale", of_worker("titans3_control_stale"), "0 1x5", "0x5", "2m", W),
    Case("Titans3ControlDiffers", {f'titans3_control_revision{{{I},worker="0"}}': "7x20", of_worker("titans3_control_revision"): "6x20"},
         "10m", {}),
    Case("Titans3ControlDiffers", {f'titans3_control_revision{{{I},worker="0"}}': "7+1x20", of_worker("titans3_control_revision"): "7+1x20"},
         "10m", None),
    *pair("Titans3CertificateExpires", f"titans3_certificate_expiry_timestamp_seconds{{{I}}}", "864000x200", "8640000x200", "2h", {},
          "9d 22h 0m 0s"),
    *pair("Titans3JobFails", f'titans3_job_failures_total{{{I},worker="1",task="sweep"}}', "0 1 2 3x60", "0 1x60", "30m", {**W, "task": "sweep"}),
    *pair("Titans3CollectorBehind", of_worker("titans3_collector_groups"), "200+5x200", "900-5x100 400x100", "3h", W),
    Case("Titans3DescriptorsNearLimit", {of_worker("titans3_process_open_fds"): "900x20", of_worker("titans3_process_max_fds"): "1024x20"},
         "10m", W),
    Case("Titans3DescriptorsNearLimit", {of_worker("titans3_process_open_fds"): "500x20", of_worker("titans3_process_max_fds"): "1024x20"},
         "10m", None),
    Case("Titans3ConnectionsNearLimit", {of_worker("titans3_connections"): "900x20", of_worker("titans3_connections_max"): "1000x20"}, "10m", W),
    Case("Titans3ConnectionsNearLimit", {of_worker("titans3_connections"): "700x20", of_worker("titans3_connections_max"): "1000x20"},
         "10m", None),
    *pair("Titans3AuthFailures", f'titans3_auth_failures_total{{{I},worker="1",reason="skew"}}', "0+600x60", "0+60x60", "30m",
          {"reason": "skew"}, "10"),
    *pair("Titans3ScrapesRefused", of_worker("titans3_scrapes_refused_total"), "0+4x60", "5x60", "30m", {}),
    *pair("Titans3AuditNotWritten", of_worker("titans3_audit_failures_total"), "0 1 2 3 4 5x20", "5x20", "4m", W),
    *pair("Titans3AuditNotWritten", of_worker("titans3_audit_waiting"), "2000x10", "1000x10", "5m", W),
    *pair("Titans3AuditWebhookBehind", of_worker("titans3_audit_webhook_lag_seconds"), "0+60x20", "0+60x4 0x20", "10m", {}, "10m 0s"),
    Case("Titans3MemoryLow", {f"titans3_machine_memory_available_bytes{{{I}}}": "1x20", f"titans3_machine_memory_bytes{{{I}}}": "100x20"},
         "10m", {}),
    Case("Titans3MemoryLow", {f"titans3_machine_memory_available_bytes{{{I}}}": "30x20", f"titans3_machine_memory_bytes{{{I}}}": "100x20"},
         "10m", None),
]  # fmt: skip


def as_test(case: Case) -> dict[str, Any]:
    rule = rules()[case.alert]
    alerts = []
    if case.fires is not None:
        labels = {"instance": "a", **case.fires}
        text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: labels[match[1]], rule["annotations"]["summary"])
        text = re.sub(r"\{\{ \$value[^}]*\}\}", case.value, text)
        annotations = {**rule["annotations"], "summary": text}
        alerts = [{"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": annotations}]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": alerts}],
    }


def test_every_alert_has_both_a_case_in_which_it_fires_and_one_in_which_not() -> None:
    for fires in (True, False):
        assert {case.alert for case in CASES if (case.fires is not None) is fires} == set(rules())


def test_rules_do_what_the_cases_say(tmp_path: Path) -> None:
    promtool = program("debian", "promtool")
    file = tmp_path / "cases.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [as_test(case) for case in CASES]}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def test_files_are_what_promtool_takes(tmp_path: Path) -> None:
    promtool = program("debian", "promtool")
    for command in (("check", "rules", str(RULES)), ("check", "config", "--syntax-only", str(ROOT / "conf/prometheus/prometheus.yml"))):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(rules()))
def test_every_alert_has_a_page_and_a_summary(name: str) -> None:
    rule = rules()[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    page = ROOT / rule["annotations"]["runbook"]
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["What it means", "How to look", "What to do"]
    assert f"[{name}]({page.name})" in (RUNBOOKS / "README.md").read_text(encoding="utf-8")


def test_every_page_has_an_alert() -> None:
    pages = {str(page.relative_to(ROOT)) for page in RUNBOOKS.glob("*.md")} - {"docs/runbooks/README.md"}
    assert pages == {rule["annotations"]["runbook"] for rule in rules().values()}


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\btitans3_\w+", text))


def is_known(name: str) -> bool:
    """A metric, or what a histogram shows itself as."""
    return name in METRICS or (name.endswith(("_bucket", "_sum", "_count")) and METRICS[name.rpartition("_")[0]].kind == HISTOGRAM)


def test_rules_and_pages_name_metrics_that_there_are() -> None:
    for file in (RULES, *RUNBOOKS.glob("*.md"), ROOT / "docs/monitoring.md"):
        assert not [name for name in names_in(file.read_text(encoding="utf-8")) if not is_known(name)], file


def test_every_metric_that_is_there_for_an_alert_has_one() -> None:
    used = names_in(RULES.read_text(encoding="utf-8"))
    for metric in METRICS.values():
        if metric.use.startswith("Alert:"):
            assert any(name == metric.name or name.startswith(f"{metric.name}_") for name in used), metric.name
