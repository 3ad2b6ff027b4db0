"""Accounts as the database holds them: who may log in, their groups and roles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, select

from gridcore.db.statements import insert_rows
from gridcore.identity import Account, Principal, Role
from gridcore.tables import account, account_role

#: In `account_role` beside the roles: the scope is a group the account belongs to, or a Unix login it has.
MEMBER = "member"
LOGIN = "login"

NAMES = select(account.c.name).order_by(account.c.name)
ROLES = select(account_role)
ROLES_OF = select(account_role).where(account_role.c.account == bindparam("name"))
NAMED = select(account.c.id).where(account.c.name == bindparam("name"))
REMOVE = delete(account).where(account.c.name == bindparam("of_name"))
REMOVE_ROLES = delete(account_role).where(account_role.c.account == bindparam("of_name"))


def accounts(conn: Connection) -> list[Account]:
    """All accounts by name, one for each login; the login is "" where nobody can log in."""
    rows = defaultdict(list)
    for row in conn.execute(ROLES):
        rows[row.account].append(row)
    return [one for name in conn.execute(NAMES).scalars().all() for one in _accounts(name, rows[name])]


def _accounts(name: str, rows: Iterable[Row[Any]]) -> list[Account]:
    scopes: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        scopes[row.acct_role].add(row.acct_group)
    logins = sorted(scopes.pop(LOGIN, ())) or [""]
    groups = frozenset(scopes.pop(MEMBER, ()))
    roles: dict[str, set[Role]] = defaultdict(set)
    for role, where in scopes.items():
        for scope in where:
            roles[scope].add(Role(role))
    principal = Principal(name, groups, {scope: frozenset(held) for scope, held in sorted(roles.items())})
    return [Account(login, principal) for login in logins]


def put(conn: Connection, new_id: int, new: Account) -> bool:
    """Make the account, or give it this login, these groups and roles; whether anything changed."""
    name = new.principal.name
    missing = conn.execute(NAMED, {"name": name}).scalar_one_or_none() is None
    if missing:
        insert_rows(conn, account, [{"id": new_id, "name": name}])
    wanted = _rows(new)
    if {(scope, role) for _, scope, role in conn.execute(ROLES_OF, {"name": name})} == wanted:
        return missing
    conn.execute(REMOVE_ROLES, {"of_name": name})
    rows = [{"account": name, "acct_group": scope, "acct_role": role} for scope, role in sorted(wanted)]
    insert_rows(conn, account_role, rows)
    return True


def _rows(new: Account) -> set[tuple[str, str]]:
    """(scope, role) of the account's rows."""
    return {
        *([(new.login, LOGIN)] if new.login else []),
        *((group, MEMBER) for group in new.principal.groups),
        *((scope, str(role)) for scope, held in new.principal.roles.items() for role in held),
    }


def remove(conn: Connection, name: str) -> bool:
    """Remove an account; what it made stays. False if there is none of that name."""
    conn.execute(REMOVE_ROLES, {"of_name": name})
    return conn.execute(REMOVE, {"of_name": name}).rowcount == 1
