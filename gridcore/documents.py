"""Documents people write: TOML in, checked values or one line with file, key and cure out."""

from __future__ import annotations

import difflib
import reprlib
import stat
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gridcore.errors import UsageError

MAX_BYTES = 10_000_000

M = TypeVar("M", bound=BaseModel)
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxlong = _BRIEF.maxother = 80


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UsageError."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or device would be read for ever
            raise UsageError(f"{path} is no regular file", hint="name a TOML file")
        if found.st_size > MAX_BYTES:
            raise UsageError(f"{path} is larger than {MAX_BYTES // 1_000_000} MB", hint="split it")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="check the path") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(
            f"{path} is no TOML: {' '.join(str(error).split())}", hint="etc/ holds examples"
        ) from None


def checked(model: type[M], values: Any, source: str) -> M:
    """The values as the model. Raises UsageError naming source, key and cure."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _flattened(error, model, source) from None


def _flattened(error: ValidationError, model: type[BaseModel], source: str) -> UsageError:
    complaints = error.errors(include_url=False)
    first = complaints[0]
    key = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
    more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
    where = f"{source}: {key}: " if key else f"{source}: "
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        near = difflib.get_close_matches(name, list(_names(_model_at(model, first["loc"]))), n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else "leave it out"
        return UsageError(f"{where}unknown key{more}", hint=hint)
    if first["type"] == "missing":
        return UsageError(f"{where}is missing{more}", hint=f"add {key}")
    what, _, cure = first["msg"].removeprefix("Value error, ").partition("; ")
    shown = _BRIEF.repr(first["input"])  # what was given may be endless
    value = f" = {shown}" if len(shown) <= 60 and first["type"] != "value_error" else ""
    return UsageError(f"{where.removesuffix(': ')}{value}: {' '.join(what.split())}{more}", hint=cure or None)


def _model_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    """The model a complaint is about: the innermost one on the way."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        around = (field.annotation, *getattr(field.annotation, "__args__", ())) if field else ()
        inner = [one for one in around if isinstance(one, type) and issubclass(one, BaseModel)]
        model = inner[0] if inner else model
    return model


def _names(model: type[BaseModel]) -> Iterator[str]:
    """The keys of a model and of those within it."""
    for name, field in model.model_fields.items():
        yield name
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _names(inner)
