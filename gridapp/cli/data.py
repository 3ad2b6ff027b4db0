"""Commands about data: datasets, subscriptions, transfers, links, sites and their catalogues."""

from __future__ import annotations

from pathlib import Path

import click

from gridapp.cli import output
from gridapp.cli.verbs import (
    FILE,
    KEY,
    Noun,
    Place,
    Record,
    Verb,
    json_option,
    limit_option,
    shown,
    state_option,
)


@click.group(cls=Noun)
def dataset() -> None:
    """Datasets, their blocks and replicas."""


@dataset.command("list")
@click.argument("pattern", default="*")
@limit_option
@shown("name", "state", "files", "bytes", "events", "created_at")
@click.pass_obj
def dataset_list(place: Place, pattern: str, limit: int) -> list[Record]:
    """Datasets whose name fits PATTERN; * stands for any text."""
    from gridapp.insights import data

    return place.ask(lambda conn: data.datasets(conn, pattern, limit))


@dataset.command("show")
@click.argument("name")
@shown()
@click.pass_obj
def dataset_show(place: Place, name: str) -> Record:
    """One dataset with its blocks, replicas and subscriptions."""
    from gridapp.insights import data

    return place.ask(lambda conn: data.dataset(conn, name))


@click.command("subscribe", cls=Verb)
@click.argument("dataset")
@click.argument("se")
@click.option("--custodial", is_flag=True, help="This copy is to be kept for good.")
@click.option(
    "--priority",
    type=click.IntRange(-1000, 1000),
    default=0,
    show_default=True,
    help="Higher goes first.",
)
@click.option("--group", help="The group it is for; default: your first.")
@click.option("--dry-run", is_flag=True, help="Only say what would be moved.")
@shown()
@click.pass_obj
def subscribe(
    place: Place, dataset: str, se: str, custodial: bool, priority: int, group: str | None, dry_run: bool
) -> Record:
    """Have a dataset at a storage element, now and as it grows."""
    from gridapp import steering

    with place.acting() as (_, context, actor):
        made = steering.subscribe(
            context, dataset, se, actor, custodial=custodial, priority=priority, group=group, dry_run=dry_run
        )
    if dry_run:
        output.say("nothing was written")
    return made


@click.group(cls=Noun)
def subscription() -> None:
    """Subscriptions: standing wishes for datasets."""


@subscription.command("list")
@limit_option
@shown("id", "dataset", "se", "state", "custodial", "files_done", "files", "percent", "reason")
@click.pass_obj
def subscription_list(place: Place, limit: int) -> list[Record]:
    """Subscriptions, newest first, with how much of each is there."""
    from gridapp.insights import data

    return place.ask(lambda conn: data.subscriptions(conn, limit))


@subscription.command("show")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def subscription_show(place: Place, id: int) -> Record:
    """One subscription block by block, what is missing first."""
    from gridapp.insights import data

    return place.ask(lambda conn: data.subscription(conn, id))


def _change(place: Place, id: int, change: str) -> Record:
    from gridapp import steering

    with place.acting() as (_, context, actor):
        return steering.change_subscription(context, id, change, actor)


@subscription.command("suspend")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def subscription_suspend(place: Place, id: int) -> Record:
    """Move nothing for it until it is resumed."""
    return _change(place, id, "suspend")


@subscription.command("resume")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def subscription_resume(place: Place, id: int) -> Record:
    """Go on with a suspended one."""
    return _change(place, id, "resume")


@subscription.command("remove")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def subscription_remove(place: Place, id: int) -> Record:
    """End it; what has arrived stays."""
    return _change(place, id, "remove")


@click.group(cls=Noun)
def transfer() -> None:
    """Transfers: one file, one hop."""


@transfer.command("list")
@state_option
@limit_option
@shown("lfn", "src", "dst", "state", "attempts", "bytes", "error")
@click.pass_obj
def transfer_list(place: Place, state: str | None, limit: int) -> list[Record]:
    """Transfers of replicas that are not complete, oldest first."""
    from gridapp.insights import data

    return place.ask(lambda conn: data.transfers(conn, state, limit))


@click.group(cls=Noun)
def link() -> None:
    """Links between storage elements."""


@link.command("list")
@shown("src", "dst", "state", "queued", "active", "files_ok", "files_bad", "rate_mb_s", "last_error")
@click.pass_obj
def link_list(place: Place) -> list[Record]:
    """Links with their queues, rates and errors."""
    from gridapp.insights import data

    return place.ask(data.links)


@link.command("disable")
@click.argument("src")
@click.argument("dst")
@click.option("--note", help="Why, for everybody who asks.")
@shown()
@click.pass_obj
def link_disable(place: Place, src: str, dst: str, note: str | None) -> Record:
    """Send nothing more over a link."""
    return _switch(place, src, dst, note, "DISABLED")


@link.command("enable")
@click.argument("src")
@click.argument("dst")
@click.option("--note", help="Why, for everybody who asks.")
@shown()
@click.pass_obj
def link_enable(place: Place, src: str, dst: str, note: str | None) -> Record:
    """Let a link be used again."""
    return _switch(place, src, dst, note, "ENABLED")


def _switch(place: Place, src: str, dst: str, note: str | None, state: str) -> Record:
    from catalogs.states import Switch
    from gridapp import steering

    with place.acting() as (_, context, actor):
        return steering.switch_link(context, src, dst, Switch(state), note, actor)


@click.group(cls=Noun)
def site() -> None:
    """Sites and their storage."""


@site.command("list")
@shown("name", "tier", "state", "storage", "endpoints", "note")
@click.pass_obj
def site_list(place: Place) -> list[Record]:
    """Sites with their storage elements and endpoints."""
    from gridapp.insights import data

    return place.ask(data.sites)


@click.group(cls=Noun)
def tfc() -> None:
    """Trivial File Catalogs: from LFN to PFN."""


@tfc.command("lint")
@click.argument("file", type=FILE)
@json_option
@click.pass_context
def tfc_lint(ctx: click.Context, file: Path, json: bool) -> None:
    """What is wrong or doubtful in a storage.xml; exit status 1 where it could not be loaded.

    As in a topology, ${TIERFLOW_DIR} stands for the directory of the installation.
    """
    from dataclasses import asdict

    from catalogs.tfc_lint import lint
    from catalogs.tfc_xml import parse_storage_xml
    from gridcore.errors import UsageError

    try:
        text = file.read_bytes().replace(b"${TIERFLOW_DIR}", b"/TIERFLOW_DIR")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", hint="name a readable storage.xml") from None
    findings = lint(parse_storage_xml(text, source=str(file), strict=False))
    errors = sum(one.severity == "error" for one in findings)
    output.show([asdict(one) for one in findings], ("severity", "where", "what", "cure"), json)
    output.say(f"{errors} errors, {len(findings) - errors} warnings")
    if errors:
        ctx.exit(1)


@tfc.command("pfn")
@click.argument("se")
@click.argument("lfn")
@shown()
@click.pass_obj
def tfc_pfn(place: Place, se: str, lfn: str) -> Record:
    """Where a file is, or would be, at a storage element."""
    from catalogs import sites
    from gridapp.insights.values import not_found
    from gridcore.ids import check_lfn

    check_lfn(lfn)
    known = place.ask(lambda conn: sites.by_name(sites.storage_elements(conn)))
    if se not in known:
        raise not_found("storage element", se, known, "tierflow site list")
    pfn, protocol = sites.pfn_of(known[se], lfn)
    return {"lfn": lfn, "se": se, "protocol": protocol, "pfn": pfn}
