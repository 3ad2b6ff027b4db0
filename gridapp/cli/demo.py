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
@click.option("--database", metavar="URL", help="An empty database to work on. Default: a file in --dir.")
@json_option
def demo(
    events: int, payload: str, faults: int | None, dir: Path | None, database: str | None, json: bool
) -> None:
    """Make data on an embedded T0-T1-T2 grid and deliver it, the whole way on this machine.

    An interrupted demo in --dir is resumed; a finished one is never used again. The URL is as in the setting
    database.url, postgresql+psycopg://USER@HOST/NAME, without password: that comes from the file named in
    TIERFLOW_DATABASE__PASSWORD_FILE.
    """
    from gridapp.demo.drive import run
    from gridapp.demo.plan import Options
    from gridcore import topnames

    topnames.check()
    options = Options(events=events, payload=payload, faults=faults, database=database)
    output.show(run(options, dir), as_json=json)
