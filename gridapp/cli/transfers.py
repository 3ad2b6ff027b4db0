"""Commands about transfers: one file, one hop; and what links have queued, failed at and brought."""

from __future__ import annotations

import click

from gridapp.cli.verbs import Noun, Place, Record, limit_option, shown, state_option


@click.group(cls=Noun)
def transfer() -> None:
    """Transfers: one file, one hop."""


@transfer.command("list")
@state_option
@click.option("--link", help="Only over this one: SRC>DST.")
@click.option("--se", help="Only from or to this storage element.")
@limit_option
@shown("lfn", "src", "dst", "state", "attempts", "bytes", "error")
@click.pass_obj
def transfer_list(
    place: Place, state: str | None, link: str | None, se: str | None, limit: int
) -> list[Record]:
    """Transfers of replicas that are not complete, oldest first."""
    from gridapp.insights import transfers

    return place.ask(lambda conn: transfers.transfers(conn, state, limit, link, se))


@transfer.command("queue")
@shown("src", "dst", "state", "queued", "queued_bytes", "active", "window", "last_end", "rate_mb_s", "eta_s")
@click.pass_obj
def transfer_queue(place: Place) -> list[Record]:
    """What waits and is under way on each link, when a copy last ended there, and how long all will take."""
    from gridapp.insights import transfers

    return place.ask(transfers.queue)


@transfer.command("errors")
@shown("src", "dst", "error_class", "owner", "n", "last_at", "sample", "hint")
@click.pass_obj
def transfer_errors(place: Place) -> list[Record]:
    """Errors by link and class, whose they are, and one of them."""
    from gridapp.insights import transfers

    return place.ask(transfers.errors)


@transfer.command("quality")
@click.option(
    "--since",
    type=click.IntRange(1, 24 * 365),
    default=24,
    show_default=True,
    help="So many hours ago.",
)
@shown("hour", "src", "dst", "ok", "failed", "bytes", "quality")
@click.pass_obj
def transfer_quality(place: Place, since: int) -> list[Record]:
    """What ended well and badly in each hour on each link."""
    from gridapp.insights import transfers

    return place.ask(lambda conn: transfers.quality(conn, since))
