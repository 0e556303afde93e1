"""Generate conf/grafana/*.json from the tables below; ``--check`` fails if a file is not what it would write.

A panel is a title, a unit of Grafana and its queries with their legends. Rows hold three panels.
"""

# ruff: noqa: E501

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "conf" / "grafana"
PER_ROW, HEIGHT = 3, 8
SERVER = '{instance=~"$instance"}'
BUCKET = '{instance=~"$instance",bucket=~"$bucket"}'

Query = tuple[str, str]
Panel = tuple[str, str, tuple[Query, ...]]
Row = tuple[str, tuple[Panel, ...]]


def rate(name: str, by: str, where: str = SERVER) -> str:
    """Increase a second of a counter, summed."""
    return f"sum by ({by}) (rate(titans3_{name}{where}[$__rate_interval]))"


def quantile(share: float, name: str, by: str, where: str = SERVER) -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, sum by ({by}, le) (rate(titans3_{name}_bucket{where}[$__rate_interval])))"


def gauge(name: str, by: str = "", where: str = SERVER) -> str:
    """A gauge, summed if ``by`` is given."""
    return f"sum by ({by}) (titans3_{name}{where})" if by else f"titans3_{name}{where}"


CLUSTER: tuple[Row, ...] = (
    ("Is all well?", (
        ("Ready", "bool_yes_no", ((gauge("ready"), "{{instance}}"),)),
        ("Workers that answer", "short", ((gauge("worker_up", "instance"), "{{instance}}"), (gauge("workers"), "{{instance}} wanted"))),
        ("Volumes that are not ok", "short", (('sum by (instance, state) (titans3_volume_state{instance=~"$instance",state!="ok"})', "{{instance}} {{state}}"),)),
    )),
    ("Requests", (
        ("Requests by server", "reqps", ((rate("requests_total", "instance"), "{{instance}}"),)),
        ("Requests by operation", "reqps", ((rate("requests_total", "operation"), "{{operation}}"),)),
        ("Answers by status", "reqps", ((rate("requests_total", "code"), "{{code}}"),)),
        ("Latency, median", "s", ((quantile(0.5, "request_duration_seconds", "operation"), "{{operation}}"),)),
        ("Latency, slowest hundredth", "s", ((quantile(0.99, "request_duration_seconds", "operation"), "{{operation}}"),)),
        ("Time to first byte of GetObject, slowest hundredth", "s", ((quantile(0.99, "first_byte_duration_seconds", "instance"), "{{instance}}"),)),
        ("Bodies received", "Bps", ((rate("request_body_bytes_total", "instance"), "{{instance}}"),)),
        ("Bodies sent", "Bps", ((rate("response_body_bytes_total", "instance"), "{{instance}}"),)),
        ("Errors that are ours, share of requests", "percentunit",
         ((f"{rate('server_errors_total', 'instance')} / {rate('requests_total', 'instance')}", "{{instance}}"),)),
        ("Errors by code", "reqps", ((rate("errors_total", "code"), "{{code}}"),)),
        ("Refused signatures by reason", "reqps", ((rate("auth_failures_total", "reason"), "{{reason}}"),)),
        ("Requests without an answer yet", "short", ((gauge("requests_in_flight", "instance"), "{{instance}}"),)),
    )),
    ("Space", (
        ("Alive", "bytes", ((gauge("volume_live_bytes", "instance"), "{{instance}}"),)),
        ("Room beyond the reserve, least of all volumes", "bytes", ((f"min by (instance) (titans3_volume_room_bytes{SERVER})", "{{instance}}"),)),
        ("Dead: comes back by itself", "bytes", ((gauge("volume_dead_bytes", "instance"), "{{instance}}"),)),
    )),
    ("Control plane", (
        ("Buckets", "short", ((gauge("buckets"), "{{instance}}"),)),
        ("Revision, newest and oldest", "short", ((f"max by (instance) (titans3_control_revision{SERVER})", "{{instance}} newest"),
                                                  (f"min by (instance) (titans3_control_revision{SERVER})", "{{instance}} oldest"))),
        ("Version", "short", ((f"sum by (version) (titans3_build_info{SERVER})", "{{version}}"),)),
    )),
)  # fmt: skip

NODE: tuple[Row, ...] = (
    ("Workers", (
        ("CPU by worker", "percentunit", ((rate("process_cpu_seconds_total", "worker"), "worker {{worker}}"),)),
        ("Loop lag, slowest hundredth", "s", ((quantile(0.99, "loop_lag_seconds", "worker"), "worker {{worker}}"),)),
        ("Memory by worker", "bytes", ((gauge("process_resident_bytes"), "worker {{worker}}"),)),
        ("Connections by worker", "short", ((gauge("connections"), "worker {{worker}}"),)),
        ("Requests by worker", "reqps", ((rate("requests_total", "worker"), "worker {{worker}}"),)),
        ("Descriptors, share of the limit", "percentunit", ((f"titans3_process_open_fds{SERVER} / titans3_process_max_fds{SERVER}", "worker {{worker}}"),)),
        ("Calls to owners", "ops", ((rate("dispatch_total", "where"), "{{where}}"),)),
        ("Calls that waited for an owner", "ops", ((rate("dispatch_held_total", "worker"), "worker {{worker}}"),)),
        ("Garbage collection", "percentunit", ((rate("gc_pause_seconds_total", "worker"), "worker {{worker}}"),)),
        ("Network", "Bps", ((rate("received_bytes_total", "instance"), "in"), (rate("sent_bytes_total", "instance"), "out"))),
        ("Lines of the audit trail", "ops", ((rate("audit_lines_total", "instance"), "written"), (rate("audit_webhook_lines_total", "instance"), "delivered"))),
        ("Audit lines wait for the receiver", "s", ((gauge("audit_webhook_lag_seconds"), "worker {{worker}}"),)),
        ("Load and CPUs", "short", ((gauge("machine_load"), "load"), (gauge("machine_cpus"), "CPUs"))),
        ("Memory of the machine", "bytes", ((gauge("machine_memory_available_bytes"), "available"), (gauge("machine_memory_bytes"), "total"))),
    )),
    ("Log", (
        ("Write and sync, median", "s", ((quantile(0.5, "log_flush_duration_seconds", "volume"), "volume {{volume}}"),)),
        ("Write and sync, slowest hundredth", "s", ((quantile(0.99, "log_flush_duration_seconds", "volume"), "volume {{volume}}"),)),
        ("Entries that share a sync", "short",
         ((f"{rate('log_flush_records_sum', 'volume')} / {rate('log_flush_records_count', 'volume')}", "volume {{volume}}"),)),
        ("Entries", "ops", ((rate("log_records_total", "volume"), "volume {{volume}}"),)),
        ("Written", "Bps", ((rate("log_written_bytes_total", "volume"), "volume {{volume}}"),)),
        ("Proposed and not yet applied", "bytes", ((gauge("uncommitted_bytes"), "volume {{volume}}"),)),
    )),
    ("Checkpoints and metadata", (
        ("Checkpoint, mean", "s",
         ((f"{rate('checkpoint_duration_seconds_sum', 'volume')} / {rate('checkpoint_duration_seconds_count', 'volume')}", "volume {{volume}}"),)),
        ("Overlay, share of its limit", "percentunit", ((f"titans3_overlay_rows{SERVER} / titans3_overlay_rows_max{SERVER}", "volume {{volume}}"),)),
        ("Pause of each write", "s", ((gauge("write_delay_seconds"), "volume {{volume}}"),)),
        ("Age of the last checkpoint", "s", ((gauge("checkpoint_age_seconds"), "volume {{volume}}"),)),
        ("B-tree in use", "bytes", ((gauge("lmdb_used_bytes"), "volume {{volume}}"),)),
        ("Rows", "short", ((gauge("lmdb_entries", "table"), "{{table}}"),)),
    )),
    ("Reads and space", (
        ("Reads", "ops", ((rate("small_reads_total", "instance"), "small bodies"), (rate("neighbour_small_reads_total", "instance"), "small bodies of siblings"), (rate("hot_reads_total", "result"), "from memory: {{result}}"), (rate("extent_reads_total", "instance"), "pieces of large ones"))),
        ("Reads that waited for the disk", "ops",
         ((rate("small_read_waits_total", "instance"), "small bodies"), (rate("extent_read_waits_total", "instance"), "pieces of large ones"))),
        ("Room beyond the reserve", "bytes", ((gauge("volume_room_bytes"), "volume {{volume}}"),)),
        ("Segments", "bytes", ((gauge("volume_segment_bytes", "kind"), "{{kind}}"),)),
        ("Compaction", "Bps", ((rate("compaction_copied_bytes_total", "volume"), "volume {{volume}}"),)),
        ("Collector and sweep", "ops", ((rate("collector_freed_total", "instance"), "collected"), (rate("sweep_freed_total", "instance"), "swept"))),
    )),
)  # fmt: skip

BUCKETS: tuple[Row, ...] = (
    ("Largest and loudest", (
        ("Ten largest", "bytes", ((f"topk(10, titans3_bucket_stored_bytes{SERVER})", "{{bucket}}"),)),
        ("Ten loudest", "reqps", ((f"topk(10, {rate('bucket_requests_total', 'bucket')})", "{{bucket}}"),)),
        ("Ten with most open uploads, bytes", "bytes", ((f"topk(10, titans3_bucket_upload_bytes{SERVER})", "{{bucket}}"),)),
    )),
    ("Usage", (
        ("Stored", "bytes", ((gauge("bucket_stored_bytes", where=BUCKET), "{{bucket}}"),)),
        ("Keys", "short", ((gauge("bucket_keys", where=BUCKET), "{{bucket}}"),)),
        ("Versions and delete markers", "short",
         ((gauge("bucket_versions", where=BUCKET), "{{bucket}} versions"), (gauge("bucket_delete_markers", where=BUCKET), "{{bucket}} markers"))),
        ("Open uploads", "short", ((gauge("bucket_uploads", where=BUCKET), "{{bucket}}"),)),
        ("Used of the quota", "percentunit",
         ((f"(titans3_bucket_stored_bytes{BUCKET} + titans3_bucket_upload_bytes{BUCKET}) / (titans3_bucket_quota_bytes{BUCKET} > 0)",
           "{{bucket}}"),)),
        ("Growth in a day", "bytes", ((f"delta(titans3_bucket_stored_bytes{BUCKET}[1d])", "{{bucket}}"),)),
        ("Age of these figures", "s", ((gauge("bucket_usage_age_seconds"), "{{instance}}"),)),
    )),
    ("Requests", (
        ("Requests", "reqps", ((rate("bucket_requests_total", "bucket", BUCKET), "{{bucket}}"),)),
        ("Client errors", "reqps", ((rate("bucket_client_errors_total", "bucket", BUCKET), "{{bucket}}"),)),
        ("Server errors", "reqps", ((rate("bucket_server_errors_total", "bucket", BUCKET), "{{bucket}}"),)),
        ("Received", "Bps", ((rate("bucket_received_bytes_total", "bucket", BUCKET), "{{bucket}}"),)),
        ("Sent", "Bps", ((rate("bucket_sent_bytes_total", "bucket", BUCKET), "{{bucket}}"),)),
    )),
)  # fmt: skip

DASHBOARDS: dict[str, tuple[str, tuple[Row, ...], bool]] = {
    "cluster": ("TitanS3: all servers", CLUSTER, False),
    "node": ("TitanS3: one server", NODE, False),
    "bucket": ("TitanS3: buckets", BUCKETS, True),
}
SOURCE = {"type": "prometheus", "uid": "${source}"}


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    title, unit, queries = panel
    return {
        "id": number, "type": "timeseries", "title": title, "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": 24 // PER_ROW, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "lineWidth": 1, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
            for at, (expression, legend) in enumerate(queries)
        ],
    }  # fmt: skip


def _variable(name: str, label: str, query: str, *, several: bool) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name}, "definition": query,
        "refresh": 2, "sort": 1, "includeAll": several, "multi": several, "allValue": ".*" if several else None,
        "current": {"text": "All", "value": "$__all"} if several else {},
    }  # fmt: skip


def dashboard(name: str) -> str:
    """The JSON of a dashboard."""
    title, rows, of_buckets = DASHBOARDS[name]
    panels: list[dict[str, Any]] = []
    y = 0
    for text, members in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": text, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})  # fmt: skip
        y += 1
        for at, panel in enumerate(members):
            column = at % PER_ROW
            panels.append(_panel(len(panels) + 1, panel, column * 24 // PER_ROW, y + at // PER_ROW * HEIGHT))
        y += -(-len(members) // PER_ROW) * HEIGHT
    variables: list[dict[str, Any]] = [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}
    ]
    variables.append(_variable("instance", "Server", "label_values(titans3_build_info, instance)", several=name != "node"))
    if of_buckets:
        variables.append(_variable("bucket", "Bucket", 'label_values(titans3_bucket_keys{instance=~"$instance"}, bucket)', several=True))
    document = {
        "uid": f"titans3-{name}", "title": title, "tags": ["titans3"], "schemaVersion": 39, "version": 1, "editable": True,
        "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "browser", "graphTooltip": 1,
        "templating": {"list": variables}, "annotations": {"list": []}, "panels": panels,
        "links": [{"title": "TitanS3", "type": "dashboards", "tags": ["titans3"], "asDropdown": True, "includeVars": True, "keepTime": True}],
    }  # fmt: skip
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def queries(name: str) -> list[str]:
    """Every query of a dashboard."""
    return [expression for _, panels in DASHBOARDS[name][1] for _, _, found in panels for expression, _ in found]


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not up to date")
    check = parser.parse_args().check
    stale = 0
    for name in DASHBOARDS:
        file = FOLDER / f"{name}.json"
        if check:
            stale += not file.exists() or file.read_text(encoding="utf-8") != dashboard(name)
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            file.write_text(dashboard(name), encoding="utf-8")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
