"""Commands about shares: who gets how much of the grid, and why."""

from __future__ import annotations

from typing import Any

import click

from gridapp.cli import output
from gridapp.cli.verbs import Noun, Place, shown

Record = dict[str, Any]
NONE = "none"


class Amount(click.ParamType[Any]):
    """A number, `20%` for 0.2, or `none` where a setting can be taken away."""

    name = "number"

    def __init__(self, *, optional: bool = True) -> None:
        self.optional = optional

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if self.optional and value.lower() == NONE:
            return NONE
        try:
            return float(value[:-1]) / 100 if value.endswith("%") else float(value)
        except ValueError:
            self.fail(f"{value!r} is no number{' or none' if self.optional else ''}", param, ctx)


class NewTarget(click.ParamType[Any]):
    """PATH=TARGET."""

    name = "path=target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        path, sign, target = str(value).rpartition("=")
        try:
            return path, float(target) if sign and path else float("x")
        except ValueError:
            self.fail(f"{value!r} is not PATH=TARGET, such as higgs=40", param, ctx)


site_option = click.option(
    "--site", metavar="SITE", help="As this site sees it: its own weights, and the work that may run there."
)


@click.group(cls=Noun)
def share() -> None:
    """Shares: who gets how much of the grid."""


@share.command("show")
@site_option
@shown(
    "path", "target", "target_part", "used_part", "next", "why", "ready?", "running_cores?", "floor?", "cap?"
)
@click.pass_obj
def share_show(place: Place, site: str | None) -> list[Record]:
    """The tree of shares, siblings in the order they are served: `next` 1 gets the next core."""
    from gridapp.insights import shares

    return place.ask(lambda conn: shares.shares(conn, site))


@share.command("set")
@click.argument("path")
@click.option("--target", type=Amount(optional=False), help="In any unit: weighed against its siblings'.")
@click.option("--floor", type=Amount(), help="Least part of its siblings' cores, such as 0.1 or 10%.")
@click.option("--cap", type=Amount(), help="Most part of its siblings' cores while they have work.")
@click.option("--child-target", type=Amount(), help="The target that new users below it get.")
@click.option("--half-life", type=Amount(), help="Hours in which past use is half forgotten; at a root.")
@click.option("--dry-run", is_flag=True, help="Only say what would be changed.")
@shown()
@click.pass_obj
def share_set(
    place: Place,
    path: str,
    target: Any,
    floor: Any,
    cap: Any,
    child_target: Any,
    half_life: Any,
    dry_run: bool,
) -> Record:
    """Change a share for good, audited; `none` takes a floor, cap, child target or half-life away."""
    from gridapp import sharing

    asked = {
        "target": target,
        "floor": floor,
        "cap": cap,
        "child_target": child_target,
        "half_life_s": half_life if half_life in (None, NONE) else half_life * 3600,
    }
    settings = {name: None if one == NONE else one for name, one in asked.items() if one is not None}
    with place.acting() as (_, context, actor):
        done = sharing.set_share(context, path, settings, actor, dry_run=dry_run)
    if dry_run:
        output.say(f"nothing was written; what it would come to: tierflow share simulate --set {path}=TARGET")
    return done


@share.command("explain")
@click.argument("job")
@site_option
@shown(
    levels=(
        "path",
        "target",
        "target_part",
        "used_part",
        "next",
        "before",
        "ready?",
        "running_cores?",
        "key?",
    )
)
@click.pass_obj
def share_explain(place: Place, job: str, site: str | None) -> Record:
    """Why a job's share (TASK/17) is served now or later: each level's numbers, and who goes before it."""
    from gridapp.insights import shares

    return place.ask(lambda conn: shares.explain(conn, job, site))


@share.command("simulate")
@click.option("--set", "targets", type=NewTarget(), multiple=True, help="Another target; repeatable.")
@click.option(
    "--hours", type=click.IntRange(1, 24 * 60), default=24, show_default=True, help="How far ahead."
)
@shown()
@click.pass_obj
def share_simulate(place: Place, targets: tuple[tuple[str, float], ...], hours: int) -> Record:
    """What the queue as it is comes to, with the present targets and with others; nothing is changed."""
    from gridapp.insights import shares

    return place.ask(lambda conn: shares.forecast(conn, dict(targets), hours))


@share.command("views")
@shown("site", "group", "slots", "running", "waiting", "response", "how?")
@click.pass_obj
def share_views(place: Place) -> list[Record]:
    """Per site and group: slots it runs on, jobs that wait, and how long a new one may wait there."""
    from gridapp.insights import views

    return place.ask(views.views)
