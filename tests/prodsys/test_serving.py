"""Several ProdAgents share the endpoints: all are served, nobody hoards, the dead are replaced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prodsys.queue.serving import part

NAMES = [f"endpoint/e{number}" for number in range(7)]


def settled(agents: list[str], owners: dict[str, str | None], rounds: int = 10) -> dict[str, str | None]:
    """Who holds what after everybody had some turns; a lease is given back before it is taken."""
    for _ in range(rounds):
        for me in agents:
            wanted = part(NAMES, me, owners, agents)
            for name, owner in owners.items():
                if owner == me and name not in wanted:
                    owners[name] = None
            for name in wanted:
                if owners[name] is None or owners[name] not in agents:
                    owners[name] = me
    return owners


@given(
    agents=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True),
    owners=st.lists(st.sampled_from([None, *"abcdefghxyz"]), min_size=7, max_size=7),
)
def test_every_endpoint_is_served_and_nobody_hoards(agents: list[str], owners: list[str | None]) -> None:
    held = settled(agents, dict(zip(NAMES, owners, strict=True)))
    most = -(-len(NAMES) // len(agents))
    assert set(held.values()) <= set(agents)
    assert all(list(held.values()).count(me) <= most for me in agents)


def test_one_alone_serves_all() -> None:
    assert part(NAMES, "a", dict.fromkeys(NAMES), ["a"]) == NAMES
    assert part(NAMES, "", dict.fromkeys(NAMES), []) == NAMES


def test_what_the_dead_held_goes_to_the_living() -> None:
    owners: dict[str, str | None] = dict.fromkeys(NAMES, "a")
    owners["endpoint/e6"] = "b"
    assert part(NAMES, "b", owners, ["b"]) == ["endpoint/e6", *NAMES[:6]]


def test_one_that_finds_nothing_stands_by() -> None:
    assert part(NAMES[:1], "b", {NAMES[0]: "a"}, ["a", "b"]) == NAMES[:1]
