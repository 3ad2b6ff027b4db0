"""Column types and the one MetaData; the same values on SQLite, PostgreSQL and Oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Column, Dialect, Integer, MetaData, String, Text
from sqlalchemy.types import TypeDecorator

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMING)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware moment. Raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; times are aware and in UTC")
    return (moment - _EPOCH) // _MICROSECOND


#: 64-bit key. SQLite wants INTEGER for a rowid alias.
Key = BigInteger().with_variant(Integer(), "sqlite")


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC moment, kept as microseconds since 1970: one order and one arithmetic on every dialect."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_micros(value)

    # What SQLAlchemy would make of process_result_value takes as long again.
    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        return _moment


def _moment(value: Any) -> datetime | None:
    return None if value is None else _EPOCH + timedelta(microseconds=int(value))


class EnumText(TypeDecorator[StrEnum]):
    """A StrEnum by its value."""

    impl = String
    cache_ok = True

    def __init__(self, enum: type[StrEnum]) -> None:
        super().__init__(20)
        self.enum = enum
        self._members = {member.value: member for member in enum}  # quicker than the enum's own call

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:
        return None if value is None else str(self._members.get(value) or self.enum(value))

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], StrEnum | None]:
        members, enum = self._members.get, self.enum
        return lambda value: None if value is None else members(value) or enum(value)


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


class Json(TypeDecorator[Any]):
    """A JSON document as text, keys sorted. For cold data: nothing is searched inside it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else _encode(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


def key(name: str, *args: Any, **kwargs: Any) -> Column[int]:
    """A 64-bit key column, not null unless said otherwise; the database never numbers it."""
    kwargs.setdefault("nullable", False)
    return Column(name, Key, *args, autoincrement=False, **kwargs)


def label(name: str, length: int = 100, *args: Any, **kwargs: Any) -> Column[str]:
    """A text column of bounded length, not null unless said otherwise."""
    kwargs.setdefault("nullable", False)
    return Column(name, String(length), *args, **kwargs)


def moment(name: str, **kwargs: Any) -> Column[datetime]:
    """A time column, nullable unless said otherwise."""
    return Column(name, UtcTime, **kwargs)


def count(name: str, **kwargs: Any) -> Column[int]:
    """A 64-bit counter, zero to begin with."""
    kwargs.setdefault("nullable", False)
    kwargs.setdefault("server_default", "0")
    return Column(name, BigInteger, **kwargs)


def flag(name: str, **kwargs: Any) -> Column[int]:
    """0 or 1: Oracle before 23 has no boolean."""
    kwargs.setdefault("server_default", "0")
    return Column(name, Integer, nullable=False, **kwargs)
