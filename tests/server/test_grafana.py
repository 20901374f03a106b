"""The dashboard for Grafana asks for metrics, labels and values that there are."""

from __future__ import annotations

import json
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ravan_server.http.connection import ConnectionLimits
from ravan_server.http.server import http_server
from tests.server.conftest import Served

FILE = Path(__file__).resolve().parents[2] / "server" / "grafana" / "ravan-edge.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
PANELS = [panel for panel in DOCUMENT["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], each["expr"]) for panel in PANELS for each in panel["targets"]]
# Given by Prometheus, and by the histograms' form.
OF_PROMETHEUS = {"job", "instance", "le"}


@pytest.fixture(scope="module")
def there(shared: Served) -> dict[str, set[str]]:
    """The names of all series, with their labels."""
    http_server(shared.app, ConnectionLimits(), meters=shared.coordinator.meters)
    meters = shared.coordinator.meters
    shared.client.get("/nothing")  # so that there are refused requests
    meters.scored('{"accuracy": 0.5, "loss": 1.0}')
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(meters.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize(("title", "expression"), TARGETS)
def test_every_metric_and_label_is_there(
    there: dict[str, set[str]], title: str, expression: str
) -> None:
    selectors = re.findall(r"((?:ravan|process)_\w+)\{([^}]*)\}", expression)
    assert selectors, title
    # Nothing is named without saying of which server.
    assert len(selectors) == len(re.findall(r"\b(?:ravan|process)_\w+", expression))
    grouped = {
        label.strip()
        for group in re.findall(r"by \(([^)]*)\)", expression)
        for label in group.split(",")
    }
    for name, matchers in selectors:
        if name.startswith("process_") and sys.platform != "linux":
            continue
        assert name in there, name
        used = set(re.findall(r"(\w+)(?:=~|=)", matchers)) | grouped
        assert {"job", "instance"} <= used
        assert used - OF_PROMETHEUS <= there[name], name
    assert expression.count("(") == expression.count(")")


def test_every_label_of_a_legend_is_one_of_the_answer(there: dict[str, set[str]]) -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
                plain = re.findall(r"(ravan_\w+)\{", target["expr"])
                assert label in " ".join(grouped) or label in there[plain[0]], panel["title"]


def test_panels_have_their_own_place_and_the_chosen_source() -> None:
    assert len({panel["id"] for panel in DOCUMENT["panels"]}) == len(DOCUMENT["panels"])
    places = [(panel["title"], panel["gridPos"]) for panel in DOCUMENT["panels"]]
    for (one, a), (other, b) in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (one, other)
    assert all(place["x"] + place["w"] <= 24 for _, place in places)
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
    names = {each["name"] for each in DOCUMENT["templating"]["list"]}
    assert set(re.findall(r"\$(?:\{)?([a-z]+)", FILE.read_text("utf-8"))) <= names
