"""The payload scripts that need no package, as real processes."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

PAYLOADS = Path(__file__).parents[2] / "etc" / "requests" / "payloads"
RANGES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda pair: [pair[0], sum(pair)]))


def shared() -> ModuleType:
    spec = importlib.util.spec_from_file_location("payload_module", PAYLOADS / "payload.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


payload = shared()


def body(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def one_line(error: str, code: int) -> str:
    assert error.startswith(f"{code} ")
    assert error.count("\n") == 1
    return error


@given(RANGES)
def test_joined_ranges_hold_the_same_numbers_and_never_touch(pairs: list[list[int]]) -> None:
    expected = {n for first, last in pairs for n in range(first, last + 1)}
    result = payload.joined(pairs)
    assert {n for first, last in result for n in range(first, last + 1)} == expected
    assert all(a[1] + 1 < b[0] for a, b in pairwise(result))


def test_a_seed_gives_the_same_events_and_a_salt_another_file(bench: Any) -> None:
    first = bench.run("toy_generate.py", "toy.txt", events=5)
    again = bench.run("toy_generate.py", "toy.txt", events=5)
    other = bench.run("toy_generate.py", "toy.txt", events=5, seed=124)
    assert body(first.output) == body(again.output) != body(other.output)
    assert first.output.read_bytes() != again.output.read_bytes()
    assert first.report == {
        "version": 1,
        "outputs": [{"name": "toy.txt", "events": 5, "runs": {"1": [[17, 17]]}}],
        "events_read": 0,
    }


def test_an_event_depends_on_its_number_and_not_on_its_neighbours(bench: Any) -> None:
    whole = bench.run("toy_generate.py", "toy.txt", events=6, first_event=40)
    tail = bench.run("toy_generate.py", "toy.txt", events=2, first_event=44)
    assert body(tail.output) == body(whole.output)[4:]


@pytest.mark.slow
def test_the_chain_keeps_every_event_and_ends_in_a_picture(bench: Any, tmp_path: Path) -> None:
    made = [bench.run("toy_generate.py", "toy.txt", events=n, seed=n) for n in (20, 15, 5)]
    merged = bench.run("merge_text.py", "merged.txt", made)
    assert merged.report["outputs"] == [{"name": "merged.txt", "events": 40, "runs": {"1": [[1, 3]]}}]
    assert body(merged.output) == [line for one in made for line in body(one.output)]
    reduced = [bench.run("toy_reduce.py", "reduced.txt", [one]) for one in (merged, made[0])]
    assert [one.report["events_read"] for one in reduced] == [40, 20]
    filled = [bench.run("toy_histogram.py", "histograms.json", [one]) for one in reduced]
    total = bench.run("merge_histograms.py", "histograms.json", filled)
    assert total.events == 60
    counted = bench.tool("count_events.py", merged.output, total.output)
    assert counted == {str(merged.output): 40, str(total.output): 60}
    drawn = bench.tool("picture.py", total.output, tmp_path / "picture")
    assert 20 < drawn["dnch_deta_mid"] < 120
    assert Path(drawn["picture"]).stat().st_size > 2000
    assert "dN/dη" in Path(drawn["table"]).read_text()


def test_merging_twice_gives_the_same_events_in_another_file(bench: Any) -> None:
    made = [bench.run("toy_generate.py", "toy.txt", events=2, seed=n) for n in (1, 2)]
    first, again = (bench.run("merge_text.py", "merged.txt", made) for _ in range(2))
    assert body(first.output) == body(again.output)
    assert first.output.read_bytes() != again.output.read_bytes()


def test_reduced_events_have_no_neutral_particle(bench: Any) -> None:
    made = bench.run("toy_generate.py", "toy.txt", events=3)
    reduced = bench.run("toy_reduce.py", "reduced.txt", [made])
    for before, after in zip(
        map(json.loads, body(made.output)), map(json.loads, body(reduced.output)), strict=True
    ):
        assert after["nch"] == sum(code not in (111, 2112) for code in before["pdgid"]) == len(after["pt"])
        assert after["impact"] == before["impact"]


def test_two_halves_of_a_sample_add_up_to_the_histograms_of_the_whole(bench: Any) -> None:
    made = [bench.run("toy_generate.py", "toy.txt", events=4, seed=n) for n in (1, 2)]
    reduced = [bench.run("toy_reduce.py", "reduced.txt", [one]) for one in made]
    whole = bench.run("toy_histogram.py", "histograms.json", reduced)
    halves = [bench.run("toy_histogram.py", "histograms.json", [one]) for one in reduced]
    summed = bench.run("merge_histograms.py", "histograms.json", halves)
    assert json.loads(summed.output.read_text()) == json.loads(whole.output.read_text())


@pytest.mark.parametrize("script", ["toy_reduce.py", "toy_histogram.py", "merge_text.py"])
def test_a_cut_off_input_is_never_read_as_a_whole_one(bench: Any, tmp_path: Path, script: str) -> None:
    made = bench.run("toy_generate.py", "toy.txt", events=4)
    lines = made.output.read_text().splitlines(keepends=True)
    cut = tmp_path / "cut.txt"
    for kept, code in ((lines[:-1], 8021), (lines[:3] + lines[4:], 8021), (["nonsense\n"], 8021)):
        cut.write_text("".join(kept))
        ended = bench.run(script, "out.txt", [cut])
        one_line(ended.error, code)
        assert ended.code == code % 256
        assert ended.report is None
        assert not (ended.path / "out.txt").exists()


def test_another_count_than_the_catalogue_states_is_an_error(bench: Any) -> None:
    made = bench.run("toy_generate.py", "toy.txt", events=4)
    made.report["outputs"][0]["events"] = 5
    ended = bench.run("merge_text.py", "merged.txt", [made])
    assert "holds 4 events, the catalogue says 5" in one_line(ended.error, 8016)
    assert ended.report is None


@pytest.mark.parametrize(
    ("script", "job"),
    [
        ("toy_generate.py", {"events": None}),
        ("toy_generate.py", {"events": 5, "outputs": []}),
        ("toy_generate.py", {"events": 5, "version": 2}),
        ("toy_reduce.py", {}),
        ("merge_text.py", {}),
        ("merge_histograms.py", {}),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(bench: Any, script: str, job: dict[str, Any]) -> None:
    ended = bench.run(script, "out.txt", **job)
    one_line(ended.error, 8009)
    assert (ended.code, ended.report) == (73, None)


def test_histograms_of_other_samples_are_not_added(bench: Any, tmp_path: Path) -> None:
    made = bench.run("toy_reduce.py", "r.txt", [bench.run("toy_generate.py", "toy.txt", events=2)])
    filled = bench.run("toy_histogram.py", "histograms.json", [made])
    other = tmp_path / "other.json"
    other.write_text(filled.output.read_text().replace("toy model", "another"))
    ended = bench.run("merge_histograms.py", "histograms.json", [filled, other])
    one_line(ended.error, 8023)


def test_without_matplotlib_the_picture_is_a_small_well_formed_svg(bench: Any, tmp_path: Path) -> None:
    made = bench.run("toy_reduce.py", "r.txt", [bench.run("toy_generate.py", "toy.txt", events=30)])
    filled = bench.run("toy_histogram.py", "histograms.json", [made])
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    bench.environment["PYTHONPATH"] = str(tmp_path)
    drawn = bench.tool("picture.py", filled.output, tmp_path / "picture")
    assert drawn["picture"] == str(tmp_path / "picture.svg")
    root = ElementTree.fromstring(Path(drawn["picture"]).read_text())
    assert len(root.findall(".//{*}path")) > 20
    assert Path(drawn["picture"]).stat().st_size < 20_000


def fake_chromo(bench: Any, tmp_path: Path, program: str) -> None:
    package = tmp_path / "site" / "chromo"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(program)
    metadata = tmp_path / "site" / "chromo-0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: chromo\nVersion: 0.0\n")
    bench.environment["PYTHONPATH"] = str(tmp_path / "site")


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("raise SystemExit('one\\nnucleus not known')", 8501, "nucleus not known"),
        ("import os; os.kill(os.getpid(), 9)", 137, "chromo was killed by SIGKILL"),
        ("raise OSError(28, 'No space left on device')", 8033, "No space left"),
        ("", 8033, "chromo exited with 0, but"),
        (
            "import sys; open(sys.argv[sys.argv.index('-f') + 1], 'wb').write(b'root' + bytes(60))",
            8033,
            "incomplete",
        ),
    ],
)
def test_only_a_whole_file_of_a_chromo_that_ended_well_counts(
    bench: Any, tmp_path: Path, program: str, code: int, says: str
) -> None:
    fake_chromo(bench, tmp_path, program)
    ended = bench.run("generate.py", "events.root", events=3)
    assert says in one_line(ended.error, code)
    assert (ended.code, ended.report) == (code % 256, None)
    assert not (ended.path / "events.root").exists()


def test_seed_zero_would_be_a_random_one_and_is_refused(bench: Any, tmp_path: Path) -> None:
    ended = bench.run("generate.py", "events.root", events=3, seed=0)
    assert "seed 0" in one_line(ended.error, 8009)


def test_sigterm_stops_chromo_too(bench: Any, tmp_path: Path) -> None:
    fake_chromo(bench, tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    path = bench.prepare("events.root", [], events=3)
    command = [sys.executable, "generate.py"]
    environment = bench.variables(path)
    with subprocess.Popen(
        command, cwd=path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert int(process.stdout.readline()) != process.pid
        process.send_signal(signal.SIGTERM)
        # The pipe ends only when chromo, which holds it as well, is gone.
        assert process.stdout.read() == ""
        assert one_line(process.stderr.read(), 143).endswith("stopped by SIGTERM\n")
    assert process.returncode == 143
