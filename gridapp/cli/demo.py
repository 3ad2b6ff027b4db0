"""The demo's command."""

from __future__ import annotations

from pathlib import Path

import click

from gridapp.cli import output
from gridapp.cli.verbs import DIRECTORY, json_option


@click.command("demo")
@click.option(
    "--events", type=click.IntRange(1, 10_000_000), default=160, show_default=True, help="10 a job."
)
@click.option(
    "--payload",
    type=click.Choice(["urqmd", "toy"]),
    default="urqmd",
    show_default=True,
    help="toy needs no physics packages.",
)
@click.option("--faults", type=int, metavar="SEED", help="Break things on the way; the sums stay exact.")
@click.option("--dir", type=DIRECTORY, help="Default: a new ./tierflow-demo/YYMMDD-HHMMSS.")
@json_option
def demo(events: int, payload: str, faults: int | None, dir: Path | None, json: bool) -> None:
    """Make data on an embedded T0-T1-T2 grid and deliver it, the whole way on this machine.

    An interrupted demo in --dir is resumed; a finished one is never used again.
    """
    from gridapp.demo.drive import run
    from gridapp.demo.plan import Options
    from gridcore import topnames

    topnames.check()
    output.show(run(Options(events=events, payload=payload, faults=faults), dir), as_json=json)
