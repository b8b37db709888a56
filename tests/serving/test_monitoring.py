"""The examples of alert rules and of a dashboard name metrics and labels that servers have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from teravec.serving.deploy.program import Server
from tests.serving.test_metrics import Samples
from tests.serving.test_metrics import secured as secured

MONITORING = Path(__file__).parents[2] / "examples" / "monitoring"
OF_PROMETHEUS = {"job", "instance", "le"}
_METRIC = re.compile(r"\b(?:teravec|process)_[a-z0-9_]+")
_MATCHERS = re.compile(r"\b((?:teravec|process)_[a-z0-9_]+)\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
_BY = re.compile(r"\bby \(([^)]*)\)")


@pytest.fixture
def labels(secured: list[Server]) -> dict[str, set[str]]:
    """Labels of each sample, by its name."""
    found: dict[str, set[str]] = {}
    for server in secured:
        for family in Samples(server).families:
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def read_rules() -> list[dict[str, Any]]:
    content = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    return [rule for group in content["groups"] for rule in group["rules"]]


def read_panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return panels


def check(expression: str, labels: dict[str, set[str]]) -> None:
    """Metrics exist, and have the labels by which they are chosen or added up."""
    named = set(_METRIC.findall(expression))
    assert named, expression
    assert named <= set(labels), named - set(labels)
    for name, matchers in _MATCHERS.findall(expression):
        assert set(_LABEL.findall(matchers)) <= labels[name] | OF_PROMETHEUS, (name, matchers)
    allowed = set.union(OF_PROMETHEUS, *(labels[name] for name in named))
    for by in _BY.findall(expression):
        assert {label.strip() for label in by.split(",")} <= allowed, by
    assert expression.count("(") == expression.count(")")


def test_rules(labels: dict[str, set[str]]) -> None:
    rules = read_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        check(rule["expr"], labels)


@pytest.mark.parametrize(
    "metric",
    [
        "teravec_lists_covered_ratio",
        "teravec_lists_one_owner_ratio",
        "teravec_damaged_lists",
        "teravec_certificate_expiry_timestamp_seconds",
        "teravec_refusals_total",
        "teravec_queue_requests",
        "teravec_last_reload_success",
        "teravec_memory_bound_bytes",
        "teravec_loop_delay_seconds",
    ],
)
def test_what_must_not_go_unseen_has_a_rule(metric: str) -> None:
    assert any(metric in rule["expr"] for rule in read_rules())


def test_dashboard(labels: dict[str, set[str]]) -> None:
    panels = read_panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert max(x for x, _ in cells) < 24
        for target in panel["targets"]:
            check(target["expr"], labels)
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in set.union(
                    OF_PROMETHEUS, *(labels[name] for name in _METRIC.findall(target["expr"]))
                )


def test_variables_of_the_dashboard(labels: dict[str, set[str]]) -> None:
    content = json.loads((MONITORING / "dashboard.json").read_text())
    variables = {each["name"]: each for each in content["templating"]["list"]}
    assert set(variables) == {"datasource", "job", "instance"}
    for name in ("job", "instance"):
        assert set(_METRIC.findall(variables[name]["definition"])) <= set(labels)
