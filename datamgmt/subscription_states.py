"""The life of a subscription: a dataset's standing wish for an SE."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from gridcore.states import StateMachine, rule


class SubscriptionState(StrEnum):
    """Where a subscription stands; each has its sentence in MEANING."""

    ASKED = "ASKED"
    DENIED = "DENIED"
    ACTIVE = "ACTIVE"
    COMPLETE = "COMPLETE"
    SUSPENDED = "SUSPENDED"
    REMOVED = "REMOVED"


MEANING: Mapping[SubscriptionState, str] = {
    SubscriptionState.ASKED: "Waits for the word of somebody who may decide at the storage element.",
    SubscriptionState.DENIED: "Somebody who may decide there said no; it may be asked for again.",
    SubscriptionState.ACTIVE: "Some closed block of the dataset is not yet complete at the storage element.",
    SubscriptionState.COMPLETE: "Every closed block is complete there; a new block makes it active again.",
    SubscriptionState.SUSPENDED: "Held by a person: nothing new is moved for it, what is there stays.",
    SubscriptionState.REMOVED: "Nobody wants the dataset there on its account; kept for the record.",
}


class SubscriptionEvent(StrEnum):
    """What moves a subscription."""

    APPROVE = "approved"
    DENY = "denied"
    DELIVERED = "last block complete"
    OUTSTANDING = "new block or lost replica"
    SUSPEND = "suspended"
    RESUME = "resumed"
    REMOVE = "removed"


_S, _E = SubscriptionState, SubscriptionEvent
#: States in which the replicas it asks for are not anybody's to take away.
WANTING = (_S.ACTIVE, _S.COMPLETE, _S.SUSPENDED)
TRANSITIONS = (
    rule(_S.ASKED, _E.APPROVE, (_S.ACTIVE, _S.SUSPENDED), "audited"),
    rule(_S.ASKED, _E.DENY, _S.DENIED, "audited"),
    rule(_S.ACTIVE, _E.DELIVERED, _S.COMPLETE),
    rule(_S.COMPLETE, _E.OUTSTANDING, _S.ACTIVE),
    rule((_S.ACTIVE, _S.COMPLETE), _E.SUSPEND, _S.SUSPENDED, "audited"),
    rule(_S.SUSPENDED, _E.RESUME, _S.ACTIVE, "audited"),
    rule((_S.ASKED, *WANTING), _E.REMOVE, _S.REMOVED, "audited"),
)
MACHINE = StateMachine("subscription", TRANSITIONS, final=(_S.REMOVED, _S.DENIED))
