"""The text that is shown: parsed by the parsers of Prometheus's own client."""

from __future__ import annotations

import math

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from titans3.observe.exposition import Samples, render
from titans3.observe.histogram import Counts, Histogram
from titans3.observe.metrics import METRICS


def some() -> Samples:
    samples = Samples()
    samples.add("titans3_workers", 2)
    samples.add("titans3_requests_total", 3, "0", "GetObject", "200")
    samples.add("titans3_bucket_keys", 2**60, 'a\\b"c\nd')
    samples.add("titans3_certificate_expiry_timestamp_seconds", 1.5)
    histogram = Histogram()
    for value in (0.0001, 0.001, 0.3, 99.0):
        histogram.add(value)
    samples.add_histogram("titans3_request_duration_seconds", histogram.read(), "0", "PutObject")
    return samples


@pytest.mark.parametrize("open_metrics", [False, True])
def test_both_formats_parse_to_what_went_in(open_metrics: bool) -> None:
    text = render(some(), open_metrics=open_metrics).decode()
    families = {family.name: family for family in (parse_open if open_metrics else parse_text)(text)}
    assert set(families) == {name.removesuffix("_total") for name in METRICS}  # each once, also those without a sample
    found = {(sample.name, *sample.labels.values()): sample.value for family in families.values() for sample in family.samples}
    assert found["titans3_workers",] == 2
    assert found["titans3_requests_total", "0", "GetObject", "200"] == 3
    assert found["titans3_bucket_keys", 'a\\b"c\nd'] == 2**60
    name = "titans3_request_duration_seconds"
    counts = [(sample.labels["le"], sample.value) for sample in families[name].samples if sample.name.endswith("_bucket")]
    assert [value for _, value in counts] == [1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4]
    assert (counts[0][0], counts[-1][0]) == ("0.0005", "+Inf")
    assert (found[f"{name}_count", "0", "PutObject"], found[f"{name}_sum", "0", "PutObject"]) == (4, pytest.approx(99.3011))
    assert families[name].unit == ("seconds" if open_metrics else "")


def test_what_a_worker_told_gets_its_number_and_what_is_not_known_is_dropped() -> None:
    told, samples = Samples(), Samples()
    told.add("titans3_connections", 7)
    told.add("titans3_log_records_total", 8, "1")
    told.add("titans3_of_tomorrow", 9)
    told.add_histogram("titans3_loop_lag_seconds", Counts((1,), 0.5))  # of code with other bounds
    samples.take(told, 3)
    text = render(samples).decode()
    assert 'titans3_connections{worker="3"} 7\n' in text
    assert 'titans3_log_records_total{volume="1"} 8\n' in text
    assert "tomorrow" not in text and "titans3_loop_lag_seconds_" not in text


def test_a_value_on_a_bound_counts_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (1.0, 1.1, 2.0, 2.1, math.inf):
        histogram.add(value)
    assert histogram.read().counts == (1, 2, 2)
