"""deploy/: what Prometheus and Grafana are given, checked without either where that can be done."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from proxy import metrics  # noqa: F401  # its series are looked for below

from .servers import leave_out

pytestmark = pytest.mark.once

DEPLOY = Path(__file__).parent.parent / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ALERTS = re.findall(
    r"expr: (?:>-\n)?((?:.+\n(?: {10,}/.*\n)?)+?) {8}(?:for|labels)", (DEPLOY / "alerts.yml").read_text()
)


@pytest.mark.parametrize(
    "command",
    ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"],
)
def test_promtool_finds_nothing_wrong(command):
    if shutil.which("promtool") is None:
        leave_out("promtool is not installed (on Debian: apt-get install prometheus).")
    done = subprocess.run(["promtool", *command.split()], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def series_and_labels():
    """All series that a scrape can tell, with the labels that each may have."""
    told = {}
    for metric in REGISTRY._collector_to_names:
        if not getattr(metric, "_name", "").startswith("api_"):
            continue
        labels = {*metric._labelnames, *(["le"] if metric._type == "histogram" else [])}
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric._type, [""])
        told |= {f"{metric._name}{suffix}": labels for suffix in suffixes}
    return told


@pytest.mark.parametrize("expression", [*QUERIES, *ALERTS])
def test_queries_name_series_and_labels_that_there_are(expression):
    told = series_and_labels()
    named = re.findall(r"\b(api_\w+)(?:{([^}]*)})?", expression)
    assert named or "up{" in expression
    for series, selector in named:
        assert series in told
        assert set(re.findall(r"(\w+)[=!]", selector)) <= told[series]
    grouped = {label for names in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.split(r", *", names)}
    assert grouped <= set().union(*(told[series] for series, _ in named)) if named else not grouped


def test_every_alert_is_looked_at_and_tested():
    names = re.findall(r"alert: (\w+)", (DEPLOY / "alerts.yml").read_text())
    assert len(ALERTS) == len(names) == 12
    tests = (DEPLOY / "alerts_test.yml").read_text()
    in_sums = {"GatewayDown", "StoreDown", "DatabaseDown", "LedgerLag"}  # of the test in which everything is down
    assert {name for name in names if name not in tests} == in_sums


def test_panels_of_the_dashboard_lie_beside_each_other_and_say_what_they_are():
    places = [tuple(panel["gridPos"].values()) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["title"] and panel["description"] for panel in DASHBOARD["panels"])
    assert all(x + w <= 24 for x, _, w, _ in places)
