"""The error tree. A class's docstring is its default message; every error has a hint and an exit code.

GridError            1  something failed
  UsageError         2  what was asked makes no sense: file, key and cure are in the message
  NotFound           3  no such thing
  Denied             4  not allowed
  Unavailable        5  try later: a database, endpoint or storage does not answer
    Busy             5  somebody else holds it
  Conflict           1  the same request id with another body, or a name already taken
  InvalidTransition  1  this state has no such event
  LeaseLost          1  another owner has taken over; stop working on it
"""

from __future__ import annotations

from typing import ClassVar


class GridError(Exception):
    """Something failed."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").split("\n")[0]
        self.hint = hint
        super().__init__(self.message)


class UsageError(GridError):
    """What was asked makes no sense."""

    exit_code = 2
    http_status = 422


class NotFound(GridError):
    """No such thing."""

    exit_code = 3
    http_status = 404


class Denied(GridError):
    """Not allowed."""

    exit_code = 4
    http_status = 403


class Unavailable(GridError):
    """It does not answer; try later."""

    exit_code = 5
    http_status = 503


class Busy(Unavailable):
    """Somebody else holds it."""


class Conflict(GridError):
    """The same name or request id is already used for something else."""

    http_status = 409


class InvalidTransition(GridError):
    """This state has no such event."""

    http_status = 409


class LeaseLost(GridError):
    """Another owner has taken over; stop working on it."""

    http_status = 409
