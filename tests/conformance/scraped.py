"""A scrape as values by series, read with the parser of Prometheus's own client.

Invariants
* ``Scraped`` of one moment is compared with one of a later moment: ``moved`` says by how much a counter rose, summed over workers.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

TOKEN = "a-token-of-the-tests"


@dataclass
class Scraped:
    """Values by (sample name, its labels), and the names of the families."""

    values: dict[tuple[str, frozenset[tuple[str, str]]], float]
    families: set[str]
    text: str

    def total(self, name: str, **labels: str) -> float:
        """Sum of the series that have these labels; KeyError if there is none."""
        found = [value for (sample, have), value in self.values.items() if sample == name and labels.items() <= set(have)]
        if not found:
            raise KeyError((name, labels))
        return sum(found)

    def or_zero(self, name: str, **labels: str) -> float:
        """``total``, 0 if there is none."""
        try:
            return self.total(name, **labels)
        except KeyError:
            return 0.0

    def moved(self, before: Scraped, name: str, **labels: str) -> float:
        """How much more than before."""
        return self.or_zero(name, **labels) - before.or_zero(name, **labels)

    def labels(self, name: str, label: str) -> set[str]:
        """Values of a label."""
        return {dict(have)[label] for (sample, have) in self.values if sample == name}


def ask(url: str, token: str | None = TOKEN, *, trust: str = "", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of the path of the metrics."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    asked = urllib.request.Request(f"{url}/_titans3/metrics", headers=sent, method=method)
    context = ssl.create_default_context(cafile=trust) if trust else None
    try:
        answer = urllib.request.urlopen(asked, timeout=20, context=context)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()


def scrape(url: str, *, trust: str = "", token: str | None = TOKEN) -> Scraped:
    """A scrape that must succeed."""
    status, _, body = ask(url, token, trust=trust)
    assert status == 200, body
    values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    families = set()
    for family in text_string_to_metric_families(body.decode()):
        families.add(family.name)
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in values, f"{key} twice"
            values[key] = sample.value
    return Scraped(values, families, body.decode())
