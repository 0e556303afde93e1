"""Samples as text for Prometheus: text format 0.0.4, or OpenMetrics 1.0 for whoever asks for it.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/.

Invariants
* Pure: values in, bytes out. What is not described in ``metrics.py`` is left out, so that nothing undocumented is ever shown.
* Families come in the order of their descriptions, and every family once, with HELP and TYPE also when it has no sample.
"""

from __future__ import annotations

import math

import msgspec

from titans3.observe.histogram import Counts
from titans3.observe.metrics import COUNTER, HISTOGRAM, METRICS, Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Labels = tuple[str, ...]


class Samples(msgspec.Struct, array_like=True):
    """Values by metric: (name, values of its labels in their order, value). The label ``worker`` is not among them on the way here."""

    values: list[tuple[str, Labels, int | float]] = []
    histograms: list[tuple[str, Labels, Counts]] = []

    def add(self, name: str, value: int | float, *labels: str) -> None:
        """A value."""
        self.values.append((name, labels, value))

    def add_histogram(self, name: str, counts: Counts, *labels: str) -> None:
        """A histogram."""
        self.histograms.append((name, labels, counts))

    def take(self, other: Samples, worker: int) -> None:
        """What a worker told, with its number where the metric has that label; what is not known here is dropped."""
        for name, labels, value in other.values:
            if name in METRICS:
                self.values.append((name, _labelled(METRICS[name], labels, worker), value))
        for name, labels, counts in other.histograms:
            if name in METRICS:
                self.histograms.append((name, _labelled(METRICS[name], labels, worker), counts))


def _labelled(metric: Metric, labels: Labels, worker: int) -> Labels:
    return (str(worker), *labels) if metric.labels[:1] == ("worker",) else labels


def render(samples: Samples, *, open_metrics: bool = False) -> bytes:
    """All of it as one document."""
    values: dict[str, list[tuple[Labels, int | float]]] = {}
    for name, labels, value in samples.values:
        values.setdefault(name, []).append((labels, value))
    histograms: dict[str, list[tuple[Labels, Counts]]] = {}
    for name, labels, counts in samples.histograms:
        histograms.setdefault(name, []).append((labels, counts))
    lines: list[str] = []
    for metric in METRICS.values():
        family = metric.name.removesuffix("_total") if open_metrics and metric.kind == COUNTER else metric.name
        lines += [f"# HELP {family} {_escaped(metric.help)}", f"# TYPE {family} {metric.kind}"]
        if open_metrics and metric.unit and family.endswith(f"_{metric.unit}"):
            lines.append(f"# UNIT {family} {metric.unit}")
        if metric.kind == HISTOGRAM:
            for labels, counts in histograms.get(metric.name, ()):
                lines += _histogram(metric, labels, counts)
        else:
            for labels, value in values.get(metric.name, ()):
                assert len(labels) == len(metric.labels), metric.name
                lines.append(f"{metric.name}{_shown(metric.labels, labels)} {_number(value)}")
    if open_metrics:
        lines.append("# EOF")
    return ("\n".join(lines) + "\n").encode()


def _histogram(metric: Metric, labels: Labels, counts: Counts) -> list[str]:
    assert len(labels) == len(metric.labels), metric.name
    if len(counts.counts) != len(metric.bounds) + 1:  # of a worker whose code has other bounds
        return []
    lines, below = [], 0
    names = (*metric.labels, "le")
    for bound, count in zip((*metric.bounds, math.inf), counts.counts, strict=True):
        below += count
        lines.append(f"{metric.name}_bucket{_shown(names, (*labels, _number(bound)))} {below}")
    plain = _shown(metric.labels, labels)
    return [*lines, f"{metric.name}_sum{plain} {_number(counts.total)}", f"{metric.name}_count{plain} {below}"]


def _shown(names: Labels, labels: Labels) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value, quote=True)}"' for name, value in zip(names, labels, strict=True)) + "}"


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: int | float) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
