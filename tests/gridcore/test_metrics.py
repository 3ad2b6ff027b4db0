"""Metrics: the table, what a scrape shows, refusals of unknown names, and the page in docs/."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gridcore import metrics
from gridcore.metrics import METRICS, Kind

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(metrics, "_MADE", [])


def sample(name: str, **labels: str) -> float | None:
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(metrics.expose().decode())
    found = (one for family in families for one in family.samples)
    return next((one.value for one in found if one.name == name and one.labels == labels), None)


def test_counters_add_gauges_set_histograms_sum():
    metrics.count("cycles", agent="merger")
    metrics.count("cycles", 2, agent="merger")
    metrics.count("blocks_closed", 5)
    metrics.gauge("jobs", 7, state="READY")
    metrics.gauge("jobs", 3, state="READY")
    metrics.observe("cycle_seconds", 0.25, agent="merger")
    metrics.observe("cycle_seconds", 0.5, agent="merger")
    assert sample("tierflow_cycles_total", agent="merger") == 3
    assert sample("tierflow_blocks_closed_total") == 5
    assert sample("tierflow_jobs", state="READY") == 3
    assert sample("tierflow_cycle_seconds_sum", agent="merger") == 0.75


def test_hostile_label_values_stay_one_sample():
    metrics.count("cycle_errors", agent="a", error='x"\n# evil 1')
    assert sample("tierflow_cycle_errors_total", agent="a", error='x"\n# evil 1') == 1


@pytest.mark.parametrize("use", [metrics.count, metrics.gauge, metrics.observe])
def test_an_unknown_name_raises(use):
    with pytest.raises(ValueError, match="no such metric: 'jbos'"):
        use("jbos", 1)


def test_another_kind_or_other_labels_raise():
    with pytest.raises(ValueError, match="no such metric: 'jobs'"):
        metrics.count("jobs", state="READY")
    with pytest.raises(ValueError):
        metrics.count("cycles", daemon="merger")
    with pytest.raises(ValueError):
        metrics.count("cycles")
    with pytest.raises(ValueError):
        metrics.count("blocks_closed", -1)


def test_threads_lose_no_count():
    start = threading.Barrier(8)

    def add() -> None:
        start.wait()
        for _ in range(200):
            metrics.count("blocks_closed")

    threads = [threading.Thread(target=add) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sample("tierflow_blocks_closed_total") == 1600


def test_the_table_is_well_formed():
    assert len({one.name for one in METRICS}) == len(METRICS)
    for one in METRICS:
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", one.name)
        assert one.help[0].isupper()
        assert not one.help.endswith(".")
        assert (one.kind is Kind.HISTOGRAM) <= one.name.endswith("_seconds")


def test_every_metric_is_scraped_and_documented():
    page = (ROOT / "docs/metrics.md").read_text()
    assert page == metrics.document()
    shown = metrics.expose().decode()
    for one in METRICS:
        assert f"# TYPE {one.exposed} {one.kind}" in shown
        assert f"| `{one.exposed}` |" in page


def test_importing_it_imports_no_prometheus_client():
    code = "import sys, gridcore.metrics; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_metric_of_the_table_is_filled():
    packages = ("gridcore", "catalogs", "datamgmt", "prodsys", "agents", "gridapp")
    sources = [path for name in packages for path in (ROOT / name).rglob("*.py") if path.name != "metrics.py"]
    text = "\n".join(path.read_text() for path in sources)
    missing = [one.name for one in METRICS if not re.search(rf'\(\s*"{one.name}",?', text)]
    assert missing == []
