"""Retry rules as the database holds them: rows override the defaults, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from gridcore.db.statements import insert_rows
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass, RetryRule
from prodsys.tables import retry_rule

RULES = select(retry_rule).order_by(retry_rule.c.error_class)
RULE_OF = select(retry_rule.c.rule).where(retry_rule.c.error_class == bindparam("of_class"))
CHANGE = (
    update(retry_rule)
    .where(retry_rule.c.error_class == bindparam("of_class"))
    .values(rule=bindparam("new_rule", type_=retry_rule.c.rule.type))
)
REMOVE = delete(retry_rule).where(retry_rule.c.error_class == bindparam("of_class"))


#: What agents of the first release do not know: written only where it is not the class's default.
_SINCE = ("bigger", "factor")
_KNOWN = frozenset(field.name for field in fields(RetryRule)) - {"error_class"}


def overrides(conn: Connection) -> dict[ErrorClass, RetryRule]:
    """The rules that are rows, of the classes this release knows."""
    return {
        ErrorClass(row.error_class): _rule(ErrorClass(row.error_class), row.rule)
        for row in conn.execute(RULES)
        if row.error_class in tuple(ErrorClass)
    }


def _rule(kind: ErrorClass, stored: Mapping[str, Any]) -> RetryRule:
    values: dict[str, Any] = {name: value for name, value in stored.items() if name in _KNOWN}
    return replace(DEFAULT_RULES[kind], **values)


def rules(conn: Connection) -> dict[ErrorClass, RetryRule]:
    """The rule of every class."""
    return DEFAULT_RULES | overrides(conn)


def put(conn: Connection, new: RetryRule) -> bool:
    """Override the default of a class; whether anything changed."""
    values = asdict(new)
    name = str(values.pop("error_class"))
    for since in _SINCE:
        if values[since] == getattr(DEFAULT_RULES[new.error_class], since):
            del values[since]
    old = conn.execute(RULE_OF, {"of_class": name}).scalar_one_or_none()
    if old is None:
        insert_rows(conn, retry_rule, [{"error_class": name, "rule": values}])
    elif old != values:
        conn.execute(CHANGE, {"of_class": name, "new_rule": values})
    return old != values


def remove(conn: Connection, error_class: ErrorClass) -> bool:
    """Return to the default. False where it holds already."""
    return conn.execute(REMOVE, {"of_class": str(error_class)}).rowcount == 1
