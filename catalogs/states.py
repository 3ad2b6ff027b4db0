"""States of what the catalogues hold: one StrEnum and one table of moves each. Pure."""

from __future__ import annotations

from enum import StrEnum

from gridcore.states import StateMachine, rule


class Switch(StrEnum):
    """Whether an operator lets a site, storage element, link or endpoint be used."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"


class DatasetState(StrEnum):
    """OPEN grows by new blocks; CLOSED gets no further file."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"


class Access(StrEnum):
    """What a dataset is good for, by its owner's word."""

    #: For everybody to read.
    VALID = "VALID"
    #: Known to be wrong: nobody shall read it.
    INVALID = "INVALID"
    #: Something better has taken its place.
    DEPRECATED = "DEPRECATED"
    #: Still being made: not for everybody yet.
    PRODUCTION = "PRODUCTION"


class InvalidCode(StrEnum):
    """Why a registered file is not to be read."""

    #: Its content is wrong, by its owner's word.
    INVALID = "INVALID"
    #: No good copy of it is left anywhere.
    LOST = "LOST"


class BlockState(StrEnum):
    """OPEN grows at its origin; CLOSED is immutable and may be copied, and never opens again."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"


class BlockEvent(StrEnum):
    """What closes a block."""

    CLOSED = "closed"


BLOCK = StateMachine(
    "block", [rule(BlockState.OPEN, BlockEvent.CLOSED, BlockState.CLOSED)], final=[BlockState.CLOSED]
)


class ReplicaState(StrEnum):
    """State of a block at a storage element; jobs read COMPLETE ones only."""

    #: Files are arriving; those that have are transfers in state DONE.
    COPYING = "COPYING"
    #: Every file of the block is there, but for its file_exception rows.
    COMPLETE = "COMPLETE"
    #: Being removed; no source for anything any more.
    DELETING = "DELETING"


class ReplicaEvent(StrEnum):
    """What moves a replica."""

    ARRIVED = "last file arrived"
    DELETE = "deletion decided"


REPLICA = StateMachine(
    "block replica",
    [
        rule(ReplicaState.COPYING, ReplicaEvent.ARRIVED, ReplicaState.COMPLETE),
        rule([ReplicaState.COMPLETE, ReplicaState.COPYING], ReplicaEvent.DELETE, ReplicaState.DELETING),
    ],
    final=[ReplicaState.DELETING],
)


class WishKind(StrEnum):
    """What one half asks of the other: put it there, bring it from tape, remove it."""

    PLACE = "place"
    STAGE = "stage"
    DELETE = "delete"


class WishState(StrEnum):
    """OPEN waits to be served; SERVED is done; REFUSED says why in its reason."""

    OPEN = "OPEN"
    SERVED = "SERVED"
    REFUSED = "REFUSED"
