"""Generate nuclear collisions with UrQMD, through the package chromo, into a ROOT tree named `event`."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from types import FrameType

import payload

SEED_MAX = 1_000_000_000
# UrQMD ignores a table path of more than 80 characters; finding no good table, it builds TABLE_BUILT.
TABLE_LINK = "urqmd.tab"
TABLE_BUILT = "tables.dat"


def main() -> None:
    options = arguments()
    job = payload.job()
    events, output = job.wanted_events(), job.output()
    if not 0 < job.seed <= SEED_MAX:
        raise payload.Failure(payload.CONFIGURATION, f"seed {job.seed} is not in 1..{SEED_MAX}")
    partial = f"partial_{os.path.splitext(output)[0]}.root"
    table = shared_table()
    if table and os.path.exists(table):
        os.symlink(table, TABLE_LINK)
    collide(options, events=events, seed=job.seed, path=partial)
    if table and os.path.exists(TABLE_BUILT):
        share(table)
    check(partial, events)
    os.replace(partial, output)
    payload.report(job, events=events)


def arguments() -> argparse.Namespace:
    """What the request asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projectile", default="Au197", help="nucleus, such as Au197")
    parser.add_argument("--target", default="Au197", help="nucleus, such as Au197")
    parser.add_argument("--sqrts", type=float, default=7.0, help="GeV per nucleon pair")
    return parser.parse_args()


def shared_table() -> str | None:
    """Where this site's jobs keep the cross-section table, built yet or not; None without a cache."""
    name = f"urqmd-chromo-{version('chromo')}.tab"
    cache = os.environ.get("TIERFLOW_CACHE")
    return os.path.join(os.path.abspath(cache), name) if cache else None


def share(table: str) -> None:
    """Give the table just built to the next jobs. Several may do so at once: each renames a whole copy."""
    # A cache that cannot be written costs the next job two seconds, not this one its events.
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(table), exist_ok=True)
        part = f"{table}.{os.uname().nodename}.{os.getpid()}"
        shutil.copyfile(TABLE_BUILT, part)
        os.replace(part, table)


def collide(options: argparse.Namespace, *, events: int, seed: int, path: str) -> None:
    """Run chromo, stopped by our signals too. Raises Failure with its last line unless it exits 0."""
    command = [sys.executable, "-m", "chromo", "-m", "UrQMD", "-S", f"{options.sqrts:g}"]
    command += ["-i", options.projectile, "-I", options.target, "-n", str(events), "-s", str(seed)]
    command += ["-o", "root", "-f", path, "--log-file", os.devnull]
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "PYTHONUTF8": "1", "PYTHONSAFEPATH": "1"}
    environment["URQMD_TAB"] = TABLE_LINK
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stopped)
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise payload.Failure(128 - done.returncode, f"chromo was killed by {name}")
    if done.returncode:
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        code = payload.CANNOT_WRITE if "No space left" in said else payload.GENERATION
        raise payload.Failure(code, f"chromo exited with {done.returncode}: {said}")


def stopped(number: int, frame: FrameType | None) -> None:
    """Signal handler: leave `subprocess.run`, which kills chromo."""
    raise payload.Failure(128 + number, f"stopped by {signal.Signals(number).name}")


def check(path: str, events: int) -> None:
    """Raise Failure unless the file is whole and has all events: a stopped chromo leaves readable ones."""
    try:
        with payload.open_tree(path) as tree:
            made = tree.num_entries
    except payload.Failure as failure:
        raise payload.Failure(payload.CANNOT_WRITE, f"chromo exited with 0, but {failure}") from failure
    if made != events:
        raise payload.Failure(payload.GENERATION, f"chromo made {made} of {events} events")


if __name__ == "__main__":
    payload.run(main)
