"""The launchers of a checkout: what a newcomer reads where the machine lacks something, and how they end."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOLS = ["sh", "cat", "sed", "awk", "grep", "tail", "df", "mkdir", "rm", "dirname", "date", "cksum"]
NO_CHROMO = "ERROR: No matching distribution found for chromo==0.11.0"

# Stands for a good Python: its virtualenvs hold a pip that installs a `tierflow`, or fails as the test says.
GOOD = f"""#!/bin/sh
case "$*" in
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip "*)
    here=$(dirname "$0")
    echo "$*" >>"$CALLS"
    case "$*" in
    *--dry-run*) if [ -n "${{PROBED:-}}" ]; then echo "$PROBED" && exit 1; fi ;;
    *"[demo]"*) if [ -n "${{SAYS:-}}" ]; then echo "$SAYS" && exit 1; fi ;;
    esac
    printf '#!/bin/sh\\necho "$@"; pwd; exit 7\\n' >"$here/tierflow"
    "{sys.executable}" -c 'import os, sys; os.chmod(sys.argv[1], 0o755)' "$here/tierflow" ;;
*) exec "{sys.executable}" "$@" ;;
esac
"""
# The running Python with something changed before it starts.
CHANGED = f'#!/bin/sh\nPYTHONPATH="$(dirname "$0")/%s" exec "{sys.executable}" "$@"\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """How a launcher ended."""

    code: int
    out: str
    error: list[str]


@dataclass(frozen=True, slots=True)
class Checkout:
    """A copy of the launchers, and a PATH with nothing but the tools of every POSIX system."""

    root: Path
    tools: Path
    calls: Path
    user: int | None = None

    def python(self, text: str, name: str = "python3") -> Path:
        """Puts a Python on the PATH."""
        return executable(self.tools / name, text)

    def changed_python(self, change: str, name: str = "python3") -> Path:
        """Puts the running Python on the PATH, after `change`."""
        (self.tools / f"{name}.d").mkdir()
        (self.tools / f"{name}.d" / "sitecustomize.py").write_text(change)
        return self.python(CHANGED % f"{name}.d", name)

    def command(self) -> list[str]:
        """The way a newcomer starts it."""
        return [str(self.root / "bin/quickstart")]

    def variables(self, **more: str) -> dict[str, str]:
        """A bare environment, without a home."""
        return {"PATH": str(self.tools), "CALLS": str(self.calls), **more}

    def quickstart(self, *arguments: str, **environment: str) -> Said:
        """Runs it from elsewhere."""
        done = subprocess.run(
            [*self.command(), *arguments],
            env=self.variables(**environment),
            cwd=self.tools,
            user=self.user,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Said(code=done.returncode, out=done.stdout, error=done.stderr.splitlines())

    def refusal(self, **environment: str) -> str:
        """The last line of one that must fail; the others only say what is being done."""
        said = self.quickstart(**environment)
        assert said.code == 1
        assert said.out == ""
        assert all(line.startswith("quickstart: ") for line in said.error)
        assert all(line.endswith("...") or " making " in line for line in said.error[:-1])
        return said.error[-1]

    def installations(self) -> list[str]:
        """The pip calls so far."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    # Not tmp_path: one test runs as another user, who may not enter that.
    with tempfile.TemporaryDirectory(prefix="tfbin") as name:
        place = Path(name)
        place.chmod(0o755)
        root, tools = place / "a check out", place / "tools"
        root.mkdir()
        tools.mkdir()
        shutil.copytree(ROOT / "bin", root / "bin")
        for file in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / file, root)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (tools / tool).symlink_to(found)
        executable(tools / "cp", f'#!/bin/sh\n"{shutil.which("cp")}" "$@"\n')
        yield Checkout(root, tools, place / "calls")


def test_no_python(checkout: Checkout) -> None:
    assert "no Python found; install Python 3.11 or newer" in checkout.refusal()


def test_a_python_that_does_not_run(checkout: Checkout) -> None:
    assert "PYTHON=/no/where does not run" in checkout.refusal(PYTHON="/no/where")


def test_a_python_that_is_too_old(checkout: Checkout) -> None:
    checkout.changed_python("import sys; sys.version_info = (3, 9, 2, 'final', 0)")
    line = checkout.refusal()
    assert "python3 is too old, Tierflow needs 3.11; install a newer Python" in line


def test_no_ensurepip(checkout: Checkout) -> None:
    checkout.changed_python("import sys; sys.modules['ensurepip'] = None")
    assert checkout.refusal().endswith(
        "lacks venv or ensurepip; on Debian and Ubuntu: apt-get install python3-venv"
    )


def test_a_python_that_lacks_venv_is_the_better_reason(checkout: Checkout) -> None:
    checkout.changed_python("import sys; sys.version_info = (3, 9, 2, 'final', 0)", "python3")
    checkout.changed_python("import sys; sys.modules['venv'] = None", "python3.12")
    assert "python3.12 lacks venv" in checkout.refusal()


def test_venv_that_fails(checkout: Checkout) -> None:
    checkout.python(GOOD.replace("mkdir -p", "echo 'Error: no wheels of pip' && exit 1 && mkdir"))
    assert checkout.refusal().endswith("no wheels of pip; on Debian and Ubuntu: apt-get install python3-venv")


def test_the_first_suitable_python_is_taken(checkout: Checkout) -> None:
    checkout.changed_python("import sys; sys.version_info = (3, 9, 2, 'final', 0)", "python3")
    checkout.python("#!/bin/sh\nexit 127\n", "python3.13")  # a shim of a version that is not installed
    checkout.python(GOOD, "python3.14")
    assert checkout.quickstart().code == 7


def test_no_write_permission(checkout: Checkout) -> None:
    checkout.python(GOOD)
    if os.geteuid() == 0:
        checkout = Checkout(checkout.root, checkout.tools, checkout.calls, user=65534)
    checkout.root.chmod(0o555)
    line = checkout.refusal()
    checkout.root.chmod(0o755)
    assert f"no write permission in {checkout.root}; make a clone of your own" in line


def test_a_disk_too_small(checkout: Checkout) -> None:
    checkout.python(GOOD)
    (checkout.tools / "df").unlink()
    executable(checkout.tools / "df", "#!/bin/sh\nprintf 'head\\n/dev/x 9 9 102400 9%% /\\n'\n")
    assert "has 100 MB free; free 700 MB" in checkout.refusal()
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize(
    ("says", "line"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full; free 700 MB"),
        ("ERROR: [Errno 13] Permission denied: 'x'", "no write permission ([Errno 13]"),
        ("x: No module named pip", "has no pip; remove it (rm -rf "),
        (
            f"WARNING: Retrying (Retry(total=4))\n{NO_CHROMO}",
            "pip cannot reach the package registry (No matching",
        ),
        (
            "ERROR: No matching distribution found for click>=8.5",
            "pip failed: No matching distribution found for click",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES",
            "pip failed: THESE PACKAGES DO NOT MATCH THE HASHES",
        ),
        ("a\\nb\nlast words", "pip failed: last words; see it all: "),
    ],
)
def test_pip_that_fails(checkout: Checkout, says: str, line: str) -> None:
    checkout.python(GOOD)
    assert line in checkout.refusal(SAYS=says)
    assert not [call for call in checkout.installations() if "demo" not in call and "--dry-run" not in call]


def test_no_network_while_the_wheel_is_looked_for(checkout: Checkout) -> None:
    checkout.python(GOOD)
    line = checkout.refusal(SAYS="ERROR: ResolutionImpossible", PROBED=f"WARNING: Retrying (x)\n{NO_CHROMO}")
    assert "pip failed: ResolutionImpossible" in line


def test_arguments_directory_and_exit_code_are_those_of_the_demo(checkout: Checkout) -> None:
    checkout.python(GOOD)
    said = checkout.quickstart("--dir", "my own")
    assert (said.code, said.out.splitlines()) == (7, ["demo --dir my own", str(checkout.tools)])


def test_the_second_run_calls_no_pip(checkout: Checkout) -> None:
    checkout.python(GOOD)
    checkout.quickstart()
    said = checkout.quickstart()
    assert (said.code, said.error, len(checkout.installations())) == (7, [], 1)


def test_other_pins_are_installed_into_the_same_virtualenv(checkout: Checkout) -> None:
    checkout.python(GOOD)
    checkout.quickstart()
    with (checkout.root / "constraints.txt").open("a") as constraints:
        constraints.write("# newer\n")
    said = checkout.quickstart()
    assert len(checkout.installations()) == 2
    assert not any("making" in line for line in said.error)


def test_an_unfinished_installation_is_made_anew(checkout: Checkout) -> None:
    checkout.python(GOOD)
    checkout.refusal(SAYS="ERROR: killed")
    (checkout.root / ".venv/rubble").touch()
    assert checkout.quickstart().code == 7
    assert not (checkout.root / ".venv/rubble").exists()


def test_a_checkout_that_moved_is_installed_anew(checkout: Checkout) -> None:
    checkout.python(GOOD)
    checkout.quickstart()
    moved = Checkout(checkout.root.rename(checkout.root.with_name("moved")), checkout.tools, checkout.calls)
    said = moved.quickstart()
    assert said.code == 7
    assert "unfinished or was moved: making it anew" in said.error[0]


def test_a_virtualenv_of_the_users_own_is_kept(checkout: Checkout) -> None:
    python = checkout.python(GOOD)
    (checkout.root / ".venv/bin").mkdir(parents=True)
    shutil.copy(python, checkout.root / ".venv/bin/python")
    (checkout.root / ".venv/mine").touch()
    checkout.refusal(SAYS="ERROR: killed")
    assert checkout.quickstart().code == 7
    assert checkout.quickstart().error == []
    assert (checkout.root / ".venv/mine").exists()


@pytest.mark.parametrize("says", [NO_CHROMO, "ERROR: ResolutionImpossible: for help visit"])
def test_without_a_wheel_of_chromo_the_demo_is_a_toy(checkout: Checkout, says: str) -> None:
    checkout.python(GOOD)
    first = checkout.quickstart("--events", "10", SAYS=says, PROBED=NO_CHROMO)
    again = checkout.quickstart()
    assert (first.code, first.out.splitlines()[0]) == (7, "demo --payload toy --events 10")
    assert any("no wheel of chromo for this Python" in line for line in first.error)
    assert again.out.splitlines()[0] == "demo --payload toy"
    assert any("without chromo the demo makes toy events" in line for line in again.error)
    assert len(checkout.installations()) == 3


def test_two_at_once_install_once(checkout: Checkout) -> None:
    checkout.python(GOOD)
    with (checkout.root / "constraints.txt").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        both = [
            subprocess.Popen(checkout.command(), env=checkout.variables(), stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for one in both:
            assert one.stderr is not None
            assert "waiting for another installation" in one.stderr.readline()
        assert checkout.installations() == []
    for one in both:
        one.communicate(timeout=60)
    assert [one.returncode for one in both] == [7, 7]
    assert len(checkout.installations()) == 1


def test_every_command_has_its_launcher() -> None:
    launchers = {path.name for path in (ROOT / "bin").iterdir() if os.access(path, os.X_OK)}
    assert launchers == set(PROJECT["scripts"]) | {"quickstart", "test"}


def test_every_requirement_is_pinned() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {str(canonicalize_name(pin.name)): pin for pin in map(Requirement, lines)}
    extras = PROJECT["optional-dependencies"]
    for text in PROJECT["dependencies"] + [one for name in extras for one in extras[name]]:
        wanted = Requirement(text)
        if wanted.name != "tierflow":
            (pin,) = pins[canonicalize_name(wanted.name)].specifier
            assert pin.operator == "=="
            assert pin.version in wanted.specifier, text


def test_no_file_names_a_package_index() -> None:
    hosts = re.compile(
        r"(pypi|piwheels|python" + r"hosted|anaconda)\.(org|python\.org)|--(extra-)?index" + "-url"
    )
    ignored = {line.strip("/*\n") for line in (ROOT / ".gitignore").read_text().splitlines()} | {".git"}
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in ignored and not name.endswith(".egg-info")]
        found += [
            Path(folder, name)
            for name in files
            if hosts.search(Path(folder, name).read_text(errors="ignore"))
        ]
    assert found == []
