"""What an agent would get: matching without claiming."""

from __future__ import annotations

from typing import Any

import click

from gridapp.cli.verbs import Place, Verb, shown
from gridcore.errors import UsageError


@click.command("match", cls=Verb)
@click.option("--dry-run", is_flag=True, help="Needed: only agents claim work.")
@click.option("--site", required=True, help="The site an agent would ask for.")
@click.option("--endpoint", help="One endpoint of the site.")
@click.option("--n", "n", type=click.IntRange(1, 1000), default=10, show_default=True, help="Jobs asked for.")
@shown(picked=("n", "job", "share", "why", "task_type?", "class?"))
@click.pass_obj
def match(place: Place, dry_run: bool, site: str, endpoint: str | None, n: int) -> dict[str, Any]:
    """What an agent at a site would get now and why, and why it would not get the rest."""
    from gridapp.insights.match import match as answer
    from gridcore.db import dbnow

    if not dry_run:
        raise UsageError("claims are made by agents, not by hand", hint="see what one would get: --dry-run")
    return place.ask(lambda conn: answer(conn, site, n, dbnow(conn), endpoint))
