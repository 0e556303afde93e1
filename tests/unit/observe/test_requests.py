"""What is counted of a request, and that nothing a client says makes a row."""

from __future__ import annotations

import dataclasses
import random

import pytest

from titans3.observe.histogram import SECONDS, Histogram
from titans3.observe.requests import BucketTraffic, RequestCounters


@dataclasses.dataclass
class Asked:
    operation: str = ""
    bucket: str = ""


def test_answers_are_counted_by_operation_and_status() -> None:
    counters = RequestCounters()
    counters.answered(Asked("GetObject", "b"), 200, 0, 10, 0.002, 0.0)
    counters.answered(Asked("GetObject", "b"), 404, 0, 3, 0.2, 0.0)
    counters.answered(Asked("PutObject", "b"), 503, 7, 1, 20.0, 0.0)
    counters.answered(Asked(), 403, 0, 5, 0.001, 0.0)
    found = {(answers.operation, answers.status): answers for answers in counters.statistics()}
    assert set(found) == {("GetObject", 200), ("GetObject", 404), ("PutObject", 503), ("Unrouted", 403)}
    assert {answers.count for answers in found.values()} == {1} and counters.answers == 4
    assert (found["PutObject", 503].received, found["GetObject", 200].sent) == (7, 10)
    latency = counters.latency()
    assert sum(latency["GetObject"].counts) == 2 and latency["GetObject"].total == 0.202
    assert latency["PutObject"].counts[-1] == 1  # above all bounds
    assert counters.buckets() == {"b": BucketTraffic(3, 1, 1, 7, 14)}
    assert counters.first_byte() == {"GetObject": latency["GetObject"]}  # each went in one piece


def test_time_to_first_byte_is_that_of_streamed_answers_and_of_the_rest_their_whole_time() -> None:
    counters = RequestCounters()
    counters.answered(Asked("GetObject"), 200, 0, 4096, 0.002, 0.0)
    counters.answered(Asked("GetObject"), 200, 0, 1 << 30, 9.0, 0.02)
    counters.answered(Asked("HeadObject"), 200, 0, 0, 0.002, 0.0)
    first = counters.first_byte()
    assert set(first) == {"GetObject"}
    assert sum(first["GetObject"].counts) == 2 and min(first["GetObject"].counts) == 0
    assert abs(first["GetObject"].total - 0.022) < 1e-9
    assert counters.latency()["GetObject"].total == 9.002


def test_buckets_that_are_gone_are_forgotten() -> None:
    counters = RequestCounters()
    for name in ("stays", "goes"):
        counters.answered(Asked("GetObject", name), 200, 0, 0, 0.1, 0.0)
    counters.forget({"stays"})
    assert set(counters.buckets()) == {"stays"}


@pytest.mark.parametrize("count", [1, 13, 14, 1000])
def test_a_fold_of_any_size_counts_like_a_histogram(count: int) -> None:
    values = [random.Random(count + number).choice((*SECONDS, 0.0, 0.3, 99.0)) for number in range(count)]
    counters, histogram = RequestCounters(), Histogram()
    for value in values:
        counters.answered(Asked("GetObject", "b"), 200, 1, 2, value, 0.0)
        histogram.add(value)
    (found,) = counters.statistics()
    assert found.seconds.counts == histogram.read().counts
    assert found.seconds.total == pytest.approx(histogram.total)
    assert (found.received, found.sent, counters.answers) == (count, 2 * count, count)
    assert counters.buckets() == {"b": BucketTraffic(count, 0, 0, count, 2 * count)}
