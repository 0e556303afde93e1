"""docs/admin-api.md, docs/configuration.md and the OpenAPI document say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from titans3.admin.door import ROUTES
from titans3.admin.openapi import document, page
from titans3.admin.route import Route, Routes
from titans3.config.keys import keys
from titans3.model.setting import SETTINGS

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_made_from_the_routes() -> None:
    assert (DOCS / "admin-api.md").read_text() == page(ROUTES), "python tools/admin_api.py"


def test_every_reference_of_the_document_is_there() -> None:
    text = json.dumps(document(ROUTES, "0"))
    found = json.loads(text)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in found["components"]["schemas"]
    names = [operation["operationId"] for methods in found["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names)) == len(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_is_found_by_its_path_and_names_its_right(route: Route) -> None:
    found, names, _ = Routes(ROUTES).find(route.method, re.sub(r"\{\w+\}", "a%2Fb", route.path))
    assert found == route
    assert set(names.values()) <= {"a/b"}
    assert route.action.startswith("titans3:") or route.path.startswith("/iam/")
    for kind in (route.takes, route.gives):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            assert kind.__doc__


def test_cluster_keys_are_documented_and_in_no_file() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)` \| `(.*)` \| (.*) \|$", (DOCS / "configuration.md").read_text().partition("## Cluster keys")[2], re.M
    )
    assert rows == [(setting.name, json.dumps(setting.default), setting.summary) for setting in SETTINGS.values()]
    assert not set(SETTINGS) & {key.path for key in keys()}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_a_cluster_key_takes_its_default_and_nothing_of_another_kind(setting: object) -> None:
    from titans3.model.setting import Setting

    assert isinstance(setting, Setting)
    assert setting.checked(setting.default) == setting.default
    assert setting.summary
    for bad in (None, 1.5, [], {}, "x" * (setting.most + 1), setting.most + 1 if setting.kind == "number" else 10**9):
        with pytest.raises(ValueError):
            setting.checked(bad)
