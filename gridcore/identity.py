"""Who somebody is and may do: accounts, roles, one policy table, LFN areas. Pure but for unix_login."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gridcore.errors import Denied
from gridcore.ids import check_label, check_lfn

EVERYWHERE = "*"
ANYBODY = "*"


class Role(StrEnum):
    """What somebody is trusted with, in a group, at a site or everywhere."""

    VIEWER = "viewer"
    USER = "user"
    PRODUCTION = "production"
    SITE_ADMIN = "site_admin"
    OPERATOR = "operator"


class Action(StrEnum):
    """What can be asked of Tierflow; every command and route names one."""

    VIEW = "view"
    TASK_SUBMIT = "submit a task"
    TASK_CONTROL = "kill, hold or retry this task"
    REQUEST_SUBMIT = "submit a request"
    REQUEST_DECIDE = "approve or assign requests"
    DATASET_IMPORT = "import a dataset"
    DATASET_CHANGE = "change this dataset or its files"
    DELETE = "have replicas deleted"
    DELETION_DECIDE = "approve or deny this deletion"
    DELETION_UNDO = "take back this deletion"
    SUBSCRIBE = "subscribe a dataset"
    SUBSCRIPTION_DECIDE = "approve, suspend or cancel this subscription"
    SITE_CONFIGURE = "change the storage, links or downtimes of this site"
    GRID_CONFIGURE = "change the topology, shares or policies"
    AGENT_CONTROL = "control agents"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an action is done to: whose it is, for which group, at which site; "" where it has none."""

    owner: str = ""
    group: str = ""
    site: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody known: `roles` are by group, by site, or EVERYWHERE."""

    name: str
    groups: frozenset[str] = frozenset()
    roles: Mapping[str, frozenset[Role]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        # The names become parts of LFNs.
        check_label(self.name, "user name")
        for group in self.groups:
            check_label(group, "group name")

    def holds(self, role: Role, subject: Subject | None = None) -> bool:
        """Whether the role is held everywhere, in the subject's group or, for SITE_ADMIN, at its site."""
        scope = "" if subject is None else subject.site if role is Role.SITE_ADMIN else subject.group
        held = self.roles.get(EVERYWHERE, frozenset())
        return role in held or (scope != "" and role in self.roles.get(scope, frozenset()))

    def holds_anywhere(self, role: Role) -> bool:
        """Whether the role is held in any group, at any site or everywhere."""
        return any(role in held for held in self.roles.values())


@dataclass(frozen=True, slots=True)
class Account:
    """A principal and the Unix login it belongs to; ANYBODY as login is for one-user grids."""

    login: str
    principal: Principal


def unix_login() -> str:
    """The login name of this process's effective Unix user; `uid1234` where the host has none for it."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid{uid}"


def local_principal(login: str, accounts: Iterable[Account]) -> Principal:
    """The principal of a local Unix user, by login name. Raises Denied where nobody knows it."""
    by_login = {account.login: account.principal for account in accounts}
    principal = by_login.get(login) or by_login.get(ANYBODY)
    if principal is None:
        raise Denied(f"the Unix user {login!r} has no account", hint="ask an operator to add one")
    return principal


@dataclass(frozen=True, slots=True)
class Rule:
    """Allowed to holders of one of the roles, and where `owner` is set to the subject's owner."""

    roles: frozenset[Role] = frozenset()
    owner: bool = False
    anybody: bool = False


def _by(*roles: Role, owner: bool = False) -> Rule:
    return Rule(frozenset(roles), owner)


POLICY: Mapping[Action, Rule] = {
    Action.VIEW: Rule(anybody=True),
    Action.TASK_SUBMIT: _by(Role.USER, Role.PRODUCTION, Role.OPERATOR),
    Action.TASK_CONTROL: _by(Role.PRODUCTION, Role.OPERATOR, owner=True),
    Action.REQUEST_SUBMIT: _by(Role.USER, Role.PRODUCTION, Role.OPERATOR),
    Action.REQUEST_DECIDE: _by(Role.PRODUCTION, Role.OPERATOR),
    Action.DATASET_IMPORT: _by(Role.PRODUCTION, Role.OPERATOR),
    Action.DATASET_CHANGE: _by(Role.PRODUCTION, Role.OPERATOR),
    Action.DELETE: _by(Role.USER, Role.PRODUCTION, Role.SITE_ADMIN, Role.OPERATOR),
    Action.DELETION_DECIDE: _by(Role.PRODUCTION, Role.SITE_ADMIN, Role.OPERATOR),
    Action.DELETION_UNDO: _by(Role.PRODUCTION, Role.SITE_ADMIN, Role.OPERATOR, owner=True),
    Action.SUBSCRIBE: _by(Role.USER, Role.PRODUCTION, Role.SITE_ADMIN, Role.OPERATOR),
    Action.SUBSCRIPTION_DECIDE: _by(Role.SITE_ADMIN, Role.OPERATOR, owner=True),
    Action.SITE_CONFIGURE: _by(Role.SITE_ADMIN, Role.OPERATOR),
    Action.GRID_CONFIGURE: _by(Role.OPERATOR),
    Action.AGENT_CONTROL: _by(Role.OPERATOR),
}


def may(principal: Principal, action: Action, subject: Subject | None = None) -> bool:
    """Whether the policy lets the principal do this to the subject."""
    rule = POLICY[action]
    owns = rule.owner and subject is not None and subject.owner == principal.name
    return rule.anybody or owns or any(principal.holds(role, subject) for role in rule.roles)


def require(principal: Principal, action: Action, subject: Subject | None = None) -> None:
    """Nothing, if allowed. Raises Denied whose hint names the roles that may."""
    if not may(principal, action, subject):
        raise Denied(f"{principal.name} may not {action}", hint=_needed(POLICY[action], subject or Subject()))


def _needed(rule: Rule, subject: Subject) -> str:
    """Such as `it needs the role production or operator in group star or everywhere, or its owner ann`."""
    roles = " or ".join(role for role in Role if role in rule.roles)
    scopes = [f"in group {subject.group}"] if subject.group else []
    if subject.site and Role.SITE_ADMIN in rule.roles:
        scopes.append(f"at {subject.site}")
    owner = f", or its owner {subject.owner}" if rule.owner and subject.owner else ""
    return f"it needs the role {roles} {' or '.join([*scopes, 'everywhere'])}{owner}"


PRODUCTION_AREAS = ("/store/data", "/store/mc", "/store/unmerged")


def writable_areas(principal: Principal) -> tuple[str, ...]:
    """The LFN directories below which the principal may write."""
    own = (f"/store/user/{principal.name}",)
    groups = tuple(f"/store/group/{group}" for group in sorted(principal.groups))
    return own + groups + (PRODUCTION_AREAS if principal.holds_anywhere(Role.PRODUCTION) else ())


def may_write(principal: Principal, lfn: str) -> bool:
    """Whether the LFN lies below an area of the principal. Raises UsageError where it is no LFN."""
    check_lfn(lfn)
    return any(lfn.startswith(area + "/") for area in writable_areas(principal))
