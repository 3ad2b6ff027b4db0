"""Commands about failures: the retry table, what failures cost, and the breakers of sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gridapp.cli.verbs import FILE, Noun, Place, shown

Record = dict[str, Any]


@click.group(cls=Noun)
def retry_rule() -> None:
    """Retry rules: what becomes of a job that failed, by kind of failure."""


@retry_rule.command("list")
@shown("class", "max", "delay_s", "cap_s", "elsewhere", "bigger", "blame", "final", "source?")
@click.pass_obj
def retry_rule_list(place: Place) -> list[Record]:
    """The retry table, with what was changed by `apply`."""
    from gridapp.insights import retries

    return place.ask(retries.rules)


@retry_rule.command("test")
@click.argument("log", type=FILE)
@shown()
@click.pass_obj
def retry_rule_test(place: Place, log: Path) -> Record:
    """What the table makes of LOG, a report.json or a job's log, and what a job would do then."""
    from gridapp.insights import retries
    from gridcore.db import dbnow

    return place.ask(lambda conn: retries.diagnose(conn, log, dbnow(conn)))


@retry_rule.command("hits")
@click.option("--days", type=click.IntRange(1, 7), default=7, show_default=True, help="How far back.")
@shown("class", "attempts", "percent", "core_hours", "sites", "worst")
@click.pass_obj
def retry_rule_hits(place: Place, days: int) -> list[Record]:
    """How attempts ended of late, and the core-hours that failures cost."""
    from gridapp.insights import retries
    from gridcore.db import dbnow

    return place.ask(lambda conn: retries.hits(conn, days, dbnow(conn)))


@click.group(cls=Noun)
def breaker() -> None:
    """Breakers: sites kept from work, or sent canaries, for one kind of failure."""


@breaker.command("list")
@shown("site", "class", "state", "reason", "until?", "allowance?", "trips?")
@click.pass_obj
def breaker_list(place: Place) -> list[Record]:
    """The breakers that ever opened or would have, and why they are as they are."""
    from gridapp.insights import retries

    return place.ask(retries.standing)


@breaker.command("reset")
@click.argument("site")
@click.argument("error_class", metavar="CLASS")
@shown()
@click.pass_obj
def breaker_reset(place: Place, site: str, error_class: str) -> Record:
    """Give SITE its work again at once although jobs failed with CLASS there."""
    from gridapp import breakers

    with place.acting() as (_, context, actor):
        return breakers.reset(context, site, error_class, actor)
