"""The life of a deletion: a replica somebody wants away."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from gridcore.states import StateMachine, rule


class DeletionState(StrEnum):
    """Where a deletion stands; each has its sentence in MEANING."""

    ASKED = "ASKED"
    APPROVED = "APPROVED"
    DENIED = "DENIED"
    UNDONE = "UNDONE"
    REFUSED = "REFUSED"
    DELETING = "DELETING"
    DELETED = "DELETED"


MEANING: Mapping[DeletionState, str] = {
    DeletionState.ASKED: "Waits for the word of somebody who may decide at the storage element.",
    DeletionState.APPROVED: "Carried out when its time has come; until then the replica is as before.",
    DeletionState.DENIED: "Somebody who may decide there said no.",
    DeletionState.UNDONE: "Taken back before its time; nothing was deleted.",
    DeletionState.REFUSED: "When its time had come, the replica had to stay: its reason says why.",
    DeletionState.DELETING: "The replica is being removed, files first.",
    DeletionState.DELETED: "The files and the replica are gone.",
}


class DeletionEvent(StrEnum):
    """What moves a deletion."""

    APPROVE = "approved"
    DENY = "denied"
    UNDO = "undone"
    REFUSE = "replica must stay"
    BEGIN = "due and allowed"
    REMOVED = "files removed"


_S, _E = DeletionState, DeletionEvent
TRANSITIONS = (
    rule(_S.ASKED, _E.APPROVE, _S.APPROVED, "audited"),
    rule(_S.ASKED, _E.DENY, _S.DENIED, "audited"),
    rule(_S.APPROVED, _E.UNDO, _S.UNDONE, "audited"),
    rule(_S.APPROVED, _E.REFUSE, _S.REFUSED, "lease"),
    rule(_S.APPROVED, _E.BEGIN, _S.DELETING, "lease"),
    rule(_S.DELETING, _E.REMOVED, _S.DELETED, "lease"),
)
MACHINE = StateMachine("deletion", TRANSITIONS, final=(_S.DENIED, _S.UNDONE, _S.REFUSED, _S.DELETED))
#: States in which it is still open what becomes of the replica.
OPEN = (_S.ASKED, _S.APPROVED)
