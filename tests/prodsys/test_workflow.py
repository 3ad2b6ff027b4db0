"""The request document: one way to split, masks beside it, and what older agents can still read."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from gridcore.errors import UsageError
from prodsys.tasks import workflow, workflow_files
from prodsys.tasks.workflow import Splitting, Step

STEP = {"name": "one", "command": ["/bin/sh"], "output": {"name": "out.root", "dataset": "/A/b/C"}}
READS = {**STEP, "input": "/X/y/Z"}
EXAMPLES = Path(__file__).parents[2] / "etc/requests"
#: Keys of the first release: its agents refuse any other.
FIRST = {
    *("name", "command", "sandbox", "env", "events", "events_per_job", "input", "files_per_job", "output"),
    *("merge", "limits", "sites", "sites_excluded", "platform", "deliver", "block"),
}


def request(**step: Any) -> dict[str, Any]:
    return {"name": "toy", "group": "production", "lfn_area": "/store/mc", "step": [step]}


@pytest.mark.parametrize(
    ("values", "splitting", "unit_kind", "total"),
    [
        ({**STEP, "events": 50, "events_per_job": 10}, Splitting.EVENTS, "events", 50),
        (
            {**STEP, "events": 50, "events_per_job": 10, "matrix": {"a": [1, 2]}},
            Splitting.MATRIX,
            "events",
            100,
        ),
        ({**STEP, "matrix": {"a": [1, 2], "b": ["x", True, 0.5]}}, Splitting.MATRIX, "points", 6),
        (READS, Splitting.FILES, "files", None),
        ({**READS, "files_per_job": 4}, Splitting.FILES, "files", None),
        ({**READS, "bytes_per_job": 4}, Splitting.SIZE, "files", None),
        ({**READS, "lumis_per_job": 4}, Splitting.LUMIS, "lumis", None),
        ({**READS, "events_per_job": 4}, Splitting.EVENT_AWARE, "lumis", None),
    ],
)
def test_a_step_says_how_it_is_cut(
    values: dict[str, Any], splitting: Splitting, unit_kind: str, total: int | None
) -> None:
    step = Step.model_validate(values)
    assert (step.splitting, step.unit_kind, step.units_total) == (splitting, unit_kind, total)
    assert Step.model_validate(step.model_dump(mode="json")) == step
    assert step.extensible == (splitting == Splitting.EVENTS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (STEP, "give events .* input .* or matrix"),
        ({**READS, "events": 5, "events_per_job": 5}, "not both"),
        ({**STEP, "events": 5}, "events_per_job is missing"),
        ({**STEP, "matrix": {"a": [1]}, "events_per_job": 5}, "events_per_job needs events"),
        ({**READS, "lumis_per_job": 5, "events_per_job": 5}, "lumis_per_job and events_per_job both say"),
        ({**READS, "lumis_per_job": 5, "files_per_job": 5}, "lumis_per_job and files_per_job both say"),
        ({**READS, "bytes_per_job": 5, "files_per_job": 5}, "bytes_per_job and files_per_job both say"),
        ({**READS, "max_events_per_job": 5}, "goes with events_per_job"),
        ({**READS, "events_per_job": 9, "max_events_per_job": 5}, "less than events_per_job"),
        ({**READS, "matrix": {"a": [1]}}, "matrix goes with events or alone"),
        (
            {**STEP, "events": 5, "events_per_job": 5, "lumis_per_job": 5},
            "lumis_per_job cuts or selects input",
        ),
        ({**STEP, "events": 5, "events_per_job": 5, "mask": {"1": [[1, 2]]}}, "mask cuts or selects input"),
        ({**STEP, "events": 5, "events_per_job": 5, "split_on_run": True}, "split_on_run cuts or selects"),
        ({**READS, "lumis_per_job": 0}, "greater than 0"),
        ({**READS, "lumis_per_job": 5, "mask": {"1": [[9, 2]]}}, r"\[9, 2\] is reversed"),
        ({**READS, "lumis_per_job": 5, "mask": {}}, "mask is empty"),
        ({**READS, "lumis_per_job": 5, "mask": "m.json"}, "it names a file"),
        ({**READS, "lumis_per_job": 5, "runs": "9-5"}, "reversed"),
        ({**READS, "files": []}, "at least 1"),
        ({**READS, "files": ["x"]}, "LFN"),
        ({**STEP, "matrix": {}}, "names no parameter"),
        ({**STEP, "matrix": {"a b": [1]}}, "pattern"),
        ({**STEP, "matrix": {"a": [1, 1]}}, "a has a value twice"),
        ({**STEP, "matrix": {f"p{n}": list(range(10)) for n in range(9)}}, "1,000,000,000 points"),
        ({**READS, "tags": ["a b"]}, "pattern"),
        ({**READS, "tags": [f"t{n}" for n in range(51)]}, "at most 50"),
        ({**READS, "limits": {"gpus": -1}}, "greater than or equal to 0"),
        ({**READS, "limits": {"disk_mb": 0}}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_cure(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        workflow.parse(request(**values), "test")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mask", {"1": [[1, 2]] * 10_000_000}, "more than 100,000 ranges"),
        ("files", ["/store/f"] * 10_000_000, "10,000,000 files are named"),
    ],
)
def test_ten_million_entries_are_refused_unread(key: str, value: Any, message: str) -> None:
    document = request(**READS, **{key: value})
    tracemalloc.start()
    with pytest.raises(UsageError, match=message) as refused:
        workflow.parse(document, "test")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.message.startswith(f"test: step.1.{key}")
    assert peak < 3_000_000


def test_a_step_that_asks_for_nothing_new_is_written_as_the_first_release_did() -> None:
    values = {**READS, "merge": {"command": ["/bin/cat"], "min_bytes": 1, "max_bytes": 2}}
    written = Step.model_validate(values).model_dump(mode="json")
    assert set(written) == FIRST
    assert set(written["limits"]) == {"cores", "wall_s", "memory_mb"}
    assert "across_runs" not in written["merge"]


def test_what_is_asked_for_is_written() -> None:
    values = {**READS, "tags": ["root/6.32"], "outbound": True, "limits": {"gpus": 1, "disk_mb": 500}}
    written = Step.model_validate({**values, "mask": {"007": [[3, 4], [1, 2]]}}).model_dump(mode="json")
    assert {name: written[name] for name in ("tags", "outbound", "mask")} == {
        "tags": ["root/6.32"],
        "outbound": True,
        "mask": {"7": [[1, 4]]},
    }
    assert written["limits"]["gpus"] == 1
    assert written["limits"]["disk_mb"] == 500


TEXT = """
name = "skim"
group = "production"
lfn_area = "/store/mc"
[[step]]
name = "one"
command = ["/bin/sh"]
input = "/X/y/Z"
lumis_per_job = 5
mask = "good.json"
output = { name = "out.root", dataset = "/A/b/C" }
"""


def read_with(directory: Path, mask: str | None) -> workflow.Request:
    path = directory / "request.toml"
    path.write_text(TEXT)
    if mask is not None:
        (directory / "good.json").write_text(mask)
    return workflow_files.read(path)[0]


def test_a_mask_is_read_beside_the_document(tmp_path: Path) -> None:
    request = read_with(tmp_path, json.dumps({"7": [[1, 3], [5, 9]]}))
    assert request.step[0].mask == {"7": [[1, 3], [5, 9]]}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "'good.json' is no file"),
        ("{", "no JSON"),
        ('{"7": [[3, 1]]}', "reversed"),
        ('{"7": [[1, 3]], "7": [[5, 6]]}', "run 7 is in the lumi mask twice"),
        ('{"1": [' + "[1,2]," * 1_000_000 + "[1,2]]}", "larger than 5 MB"),
    ],
)
def test_a_mask_that_is_none_is_told_with_file_key_and_cure(
    tmp_path: Path, mask: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        read_with(tmp_path, mask)
    assert "request.toml: step.1.mask" in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_requests(path: Path) -> None:
    request, boxes = workflow_files.read(path)
    assert set(boxes) == {step.name for step in request.step}
