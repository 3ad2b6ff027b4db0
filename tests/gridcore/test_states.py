"""State machines: the questions one asks of a table, and what a table may not say."""

from __future__ import annotations

from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.errors import InvalidTransition
from gridcore.states import StateMachine, rule


class Door(StrEnum):
    OPEN = "open"
    SHUT = "shut"
    LOCKED = "locked"
    GONE = "gone"


class Push(StrEnum):
    PULL = "pull"
    TURN = "turn"
    BURN = "burn"


LINES = (
    rule(Door.OPEN, Push.PULL, Door.SHUT),
    rule(Door.SHUT, Push.PULL, {Door.OPEN, Door.SHUT}, guard="it may be stuck"),
    rule([Door.OPEN, Door.SHUT], Push.TURN, Door.LOCKED),
    rule(set(Door) - {Door.GONE}, Push.BURN, Door.GONE),
)
MACHINE = StateMachine("door", LINES, final=[Door.GONE])


def test_next_and_check():
    assert MACHINE.next(Door.OPEN, Push.PULL) is Door.SHUT
    assert MACHINE.check(Door.SHUT, Push.PULL, Door.OPEN) is Door.OPEN
    with pytest.raises(InvalidTransition, match="a door in state locked does not know pull"):
        MACHINE.next(Door.LOCKED, Push.PULL)
    with pytest.raises(InvalidTransition, match="from open to open on pull"):
        MACHINE.check(Door.OPEN, Push.PULL, Door.OPEN)
    with pytest.raises(ValueError, match=r"one of .*open.*shut"):
        MACHINE.next(Door.SHUT, Push.PULL)


def test_sources():
    assert MACHINE.sources(Push.PULL) == {Door.OPEN, Door.SHUT}
    assert MACHINE.sources(Push.PULL, Door.OPEN) == {Door.SHUT}
    assert MACHINE.sources(Push.BURN) == set(Door) - {Door.GONE}


def test_edges_and_diagram():
    assert (Door.SHUT, Door.SHUT) in MACHINE.edges()
    assert len(MACHINE.edges()) == 8
    diagram = MACHINE.to_mermaid().splitlines()
    assert diagram[:2] == ["stateDiagram-v2", "    open --> shut: pull"]
    assert diagram[-1] == "    gone --> [*]"
    drawn = {tuple(line.strip().partition(":")[0].split(" --> ")) for line in diagram[1:-1]}
    assert drawn == MACHINE.edges()


def test_a_table_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="two rules for open on pull"):
        StateMachine("door", [*LINES, rule(Door.OPEN, Push.PULL, Door.LOCKED)], final=[Door.GONE])
    with pytest.raises(ValueError, match="gone is final"):
        StateMachine("door", [*LINES, rule(Door.GONE, Push.PULL, Door.OPEN)], final=[Door.GONE])


@given(st.sampled_from(Door), st.sampled_from(Push), st.sampled_from(Door))
def test_check_sources_and_next_agree(state, event, target):
    try:
        allowed = MACHINE.check(state, event, target) is target
    except InvalidTransition:
        allowed = False
    assert allowed == (state in MACHINE.sources(event, target))
    assert not allowed or (state, target) in MACHINE.edges()
    assert not (allowed and state in MACHINE.final)
