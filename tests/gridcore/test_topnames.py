"""The guard of our import names, against made-up intruders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gridcore import topnames
from gridcore.errors import GridError

ROOT = Path(__file__).parents[2]


def install(site: Path, distribution: str, *files: str) -> None:
    folder = site / f"{distribution}.dist-info"
    folder.mkdir()
    (folder / "RECORD").write_text("".join(f"{name},sha256=x,1\n" for name in files))


def test_this_environment_is_clean():
    # In a process of its own: pytest puts the tests' folders, named like our packages, on its path.
    code = "from gridcore import topnames; topnames.check()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_an_intruder_in_our_packages_is_named(tmp_path):
    install(tmp_path, "openai_agents-0.24.0", "agents/__init__.py", "agents/run.py")
    install(tmp_path, "late-1.0", "late.py", "prodsys/x.py", "gridapp/y.py")
    assert list(topnames.intruders(tmp_path)) == [
        "distribution late-1.0 has put files into our package prodsys",
        "distribution late-1.0 has put files into our package gridapp",
        "distribution openai_agents-0.24.0 has put files into our package agents",
    ]


def test_we_and_the_like_named_are_no_intruders(tmp_path):
    install(tmp_path, "tierflow-0.1.0", "agents/__init__.py", "prodsys/__init__.py")
    install(tmp_path, "useragents-1.0", "useragents/agents/x.py", "agents_x/y.py", "agents.py")
    (tmp_path / "broken-1.0.dist-info").mkdir()
    assert list(topnames.intruders(tmp_path)) == []


def test_check_gives_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(topnames, "__file__", str(tmp_path / "gridcore" / "topnames.py"))
    install(tmp_path, "prodsys-1.3.1", "prodsys/__init__.py")
    with pytest.raises(GridError, match=r"distribution prodsys-1\.3\.1") as caught:
        topnames.check()
    assert "environment of its own" in caught.value.hint
    assert f"not from {tmp_path}" in caught.value.message


def seen(root: Path, *path: Path) -> str:
    """What `elsewhere(root)` finds in a bare interpreter with this path."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        f"from gridcore import topnames; from pathlib import Path\n"
        f"sys.path[:1] = {[str(one) for one in path]!r}\n"
        f"print(*topnames.elsewhere(Path({str(root)!r})), sep='|', end='')"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_package_that_hides_ours_is_seen(tmp_path):
    assert seen(ROOT, ROOT) == ""
    (tmp_path / "agents").mkdir()
    # A folder without __init__.py hides nothing.
    assert seen(ROOT, tmp_path, ROOT) == ""
    (tmp_path / "agents" / "__init__.py").touch()
    found = seen(ROOT, tmp_path, ROOT)
    assert found == f"package agents comes from {tmp_path / 'agents'}, not from {ROOT}"


def test_a_package_that_lost_its_init_is_seen(tmp_path):
    for name in topnames.NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "agents" / "__init__.py").unlink()
    (tmp_path / "prodsys" / "__init__.py").unlink()
    (tmp_path / "prodsys").rmdir()
    # The interpreter has imported gridcore from the checkout; the others are looked up.
    found = seen(tmp_path, tmp_path).split("|")
    assert found == [
        "package agents is missing or has lost its __init__.py",
        "package prodsys is missing or has lost its __init__.py",
        f"package gridcore comes from {ROOT / 'gridcore'}, not from {tmp_path}",
    ]
