"""Parameter matrix: one point for every combination of named values, numbered without being written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from gridcore.errors import UsageError

Value = str | int | float | bool
Matrix = Mapping[str, Sequence[Value]]


def count(matrix: Matrix) -> int:
    """How many points it has."""
    return prod(len(values) for values in matrix.values())


def check(matrix: Matrix, most: int) -> None:
    """Raises UsageError for a matrix without points, with more than `most`, or with a value given twice."""
    if not matrix:
        raise UsageError("it names no parameter", hint='write it as { name = ["value", "value"] }')
    if (points := count(matrix)) > most:
        lengths = " x ".join(str(len(values)) for values in matrix.values())
        raise UsageError(
            f"{lengths} values make {points:,} points, at most {most:,} are allowed",
            hint="cut the request into several tasks",
        )
    for name, values in matrix.items():
        if not values:
            raise UsageError(f"{name} has no value", hint="give at least one, or leave it out")
        if len({(type(value), value) for value in values}) < len(values):
            raise UsageError(f"{name} has a value twice", hint="name each value once")


def point(matrix: Matrix, number: int) -> dict[str, Value]:
    """Point `number`, counted from 0; the last name changes fastest. Raises UsageError outside the matrix."""
    if not 0 <= number < count(matrix):
        raise UsageError(f"the matrix has no point {number}", hint=f"it has {count(matrix)}, counted from 0")
    chosen: dict[str, Value] = {}
    for name, values in reversed(list(matrix.items())):
        number, place = divmod(number, len(values))
        chosen[name] = values[place]
    return {name: chosen[name] for name in matrix}
