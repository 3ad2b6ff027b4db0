"""The payload scripts that need the demo extra: real collisions, real ROOT files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

pytestmark = pytest.mark.slow


def tree(path: Path, name: str = "event") -> Any:
    return uproot.open({path: name})


def arrays(path: Path) -> Any:
    return tree(path).arrays()


def written(path: Path, events: int = 12, start: int = 0) -> Path:
    """A tree as chromo's, with invented particles."""
    numbers = np.arange(start, start + events)
    counts = numbers % 4 + 1
    total = int(counts.sum())
    flat = np.random.default_rng(start).normal(size=(3, total)).astype("float32")
    codes = np.resize(np.array([211, 111, 2212, 2112, -211], dtype="int32"), total)
    status = np.resize(np.array([1, 1, 1, 1, 2], dtype="int32"), total)
    columns = {"px": flat[0], "py": flat[1], "pz": flat[2], "pdgid": codes, "status": status}
    types = {"impact": "float32"} | {name: f"var * {column.dtype}" for name, column in columns.items()}
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        made = file.mktree("event", types)
        jagged = {name: ak.unflatten(column, counts) for name, column in columns.items()}
        made.extend({"impact": numbers.astype("float32")} | jagged)
    return path


def test_real_collisions_go_the_whole_way(bench: Any, tmp_path: Path) -> None:
    made = [bench.run("generate.py", "events.root", events=2, seed=seed) for seed in (5, 6)]
    merged = bench.run("merge_root.py", "merged.root", made)
    reduced = bench.run("reduce.py", "reduced.root", [merged])
    filled = bench.run("histogram.py", "histograms.json", [reduced])
    assert (merged.events, reduced.events, filled.events) == (4, 4, 4)
    before = [arrays(one.output) for one in made]
    assert not ak.array_equal(before[0].px, before[1].px)
    assert ak.array_equal(arrays(reduced.output).impact, ak.concatenate([one.impact for one in before]))
    drawn = bench.tool("picture.py", filled.output, tmp_path / "picture")
    assert Path(drawn["picture"]).read_bytes().startswith(b"\x89PNG")
    assert bench.tool("count_events.py", reduced.output) == {str(reduced.output): 4}


def test_jobs_share_one_table_and_replace_a_broken_one(bench: Any, tmp_path: Path) -> None:
    cache = tmp_path / ("deep" * 30) / "cache"
    bench.environment["TIERFLOW_CACHE"] = str(cache)
    first = bench.run("generate.py", "events.root", events=1)
    (table,) = cache.iterdir()
    good = table.read_bytes()
    second = bench.run("generate.py", "events.root", events=1)
    assert (first.path / "tables.dat").exists()
    assert not (second.path / "tables.dat").exists()
    table.write_bytes(good[:1000])
    third = bench.run("generate.py", "events.root", events=1)
    assert table.read_bytes() == good
    assert ak.array_equal(arrays(first.output), arrays(second.output))
    assert ak.array_equal(arrays(first.output), arrays(third.output))
    assert first.output.read_bytes() != second.output.read_bytes()


def test_merging_keeps_every_branch_type_and_value(bench: Any, tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{n}.root", start=n) for n in (0, 12, 24)]
    merged = bench.run("merge_root.py", "merged.root", paths)
    before, after = tree(paths[0]), tree(merged.output)
    assert {b.name: b.typename for b in before.branches} == {b.name: b.typename for b in after.branches}
    assert ak.array_equal(after.arrays(), ak.concatenate([arrays(path) for path in paths]), dtype_exact=True)
    assert after.file.compression == uproot.ZLIB(1)
    assert merged.report["events_read"] == 36


def test_merging_takes_other_trees_along(bench: Any, tmp_path: Path) -> None:
    for n in (1, 2):
        with uproot.recreate(tmp_path / f"{n}.root") as file:
            file.mktree("event", {"x": "int32"}).extend({"x": np.arange(n, dtype="int32")})
            file.mktree("run", {"flag": "bool", "v": np.dtype(("f8", (3,)))}).extend(
                {"flag": np.array([True]), "v": np.full((1, 3), n, dtype="f8")}
            )
    merged = bench.run("merge_root.py", "merged.root", [tmp_path / "1.root", tmp_path / "2.root"])
    assert merged.events == 3
    run = tree(merged.output, "run").arrays(library="np")
    assert run["flag"].tolist() == [True, True]
    assert run["v"].tolist() == [[1.0] * 3, [2.0] * 3]


def test_files_with_other_branches_are_not_merged(bench: Any, tmp_path: Path) -> None:
    for name, kind in (("a", "int32"), ("b", "int64")):
        with uproot.recreate(tmp_path / f"{name}.root") as file:
            file.mktree("event", {"x": kind}).extend({"x": np.arange(2, dtype=kind)})
    ended = bench.run("merge_root.py", "merged.root", [tmp_path / "a.root", tmp_path / "b.root"])
    assert ended.error == "8023 /store/in_1.root has int64 as branch event.x, the files before it int32\n"
    assert (ended.code, ended.report) == (87, None)


def test_a_merge_that_finds_fewer_events_than_catalogued_fails(bench: Any, tmp_path: Path) -> None:
    made = bench.run("reduce.py", "reduced.root", [written(tmp_path / "a.root")])
    made.report["outputs"][0]["events"] = 13
    ended = bench.run("merge_root.py", "merged.root", [made])
    assert ended.error.startswith("8016 /store/in_0.root holds 12 events, the catalogue says 13")


def test_reducing_keeps_charged_final_particles_and_every_event(bench: Any, tmp_path: Path) -> None:
    source = written(tmp_path / "a.root", events=40)
    before, after = arrays(source), arrays(bench.run("reduce.py", "reduced.root", [source]).output)
    kept = (before.status == 1) & ((abs(before.pdgid) == 211) | (before.pdgid == 2212))
    assert ak.num(after.pt).tolist() == ak.sum(kept, axis=1).tolist() == after.nch.tolist()
    momentum = np.sqrt(before.px**2 + before.py**2 + before.pz**2)[kept]
    assert np.allclose(ak.flatten(after.eta), np.arctanh(ak.flatten(before.pz[kept] / momentum)), atol=1e-4)
    types = {name: str(after[name].type) for name in ("impact", "nch", "pt", "eta")}
    jagged = "40 * var * float32"
    assert types == {"impact": "40 * float32", "nch": "40 * int32", "pt": jagged, "eta": jagged}


def test_histograms_count_what_is_in_range(bench: Any, tmp_path: Path) -> None:
    reduced = bench.run("reduce.py", "reduced.root", [written(tmp_path / "a.root", events=20)])
    filled = bench.run("histogram.py", "histograms.json", [reduced], ["--sample", "test"])
    content = json.loads(filled.output.read_text())
    eta = ak.to_numpy(ak.flatten(arrays(reduced.output).eta))
    counts = np.sum([one["eta"]["counts"] for one in content["classes"]], axis=0)
    assert counts.tolist() == np.histogram(eta, bins=np.array(content["edges"]["eta"]))[0].tolist()
    assert [one["events"] for one in content["classes"]] == [5, 5, 10]
    assert content["sample"] == "test"


@pytest.mark.parametrize("script", ["reduce.py", "merge_root.py"])
def test_damaged_input_is_named_and_nothing_is_left(bench: Any, tmp_path: Path, script: str) -> None:
    source = written(tmp_path / "a.root", events=3000)
    whole = source.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    for content, code in ((whole[:-100], 8021), (b"", 8020), (bytes(flipped), 8021)):
        source.write_bytes(content)
        ended = bench.run(script, "out.root", [source])
        assert ended.error.startswith(f"{code} ")
        assert ended.error.count("\n") == 1
        assert ended.report is None
        assert not (ended.path / "out.root").exists()
