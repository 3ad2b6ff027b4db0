"""What an installation may set: typed sections, read from TOML, then the environment, then flags."""

from __future__ import annotations

import difflib
import os
import re
import stat
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict

from gridcore.errors import UsageError

PREFIX = "TIERFLOW_"
_PATHS = ("dir", "database.password_file")
_SECRET_URL = re.compile(r"://[^:/@]*:[^@]+@")
# A holder stops working when this part of its lease has passed without renewal.
_TRUSTED_PART = 0.6


def _without_password(url: str) -> str:
    if _SECRET_URL.search(url):
        raise PydanticCustomError(
            "password",
            "it holds a password",
            {"cure": "put the password in a file of mode 0600 and name it in database.password_file"},
        )
    return url


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


Seconds = Annotated[float, Field(gt=0)]
Amount = Annotated[int, Field(gt=0)]
FilePath = Annotated[Path, AfterValidator(_absolute)]


class Section(BaseModel):
    """One table of the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Database(Section):
    """The one database all daemons share."""

    url: Annotated[str, AfterValidator(_without_password)] = Field(
        default="sqlite:///{dir}/tierflow.db", description="URL without password; `{dir}` is filled in"
    )
    password_file: FilePath | None = Field(default=None, description="file of mode 0600: the password")
    statement_timeout_s: Seconds = Field(default=5, description="longest read of a face, in seconds")


class Lease(Section):
    """How long one owner may hold work unheard."""

    seconds: Seconds = Field(default=300, description="length of a lease, in seconds")
    heartbeat_s: Seconds = Field(default=60, description="seconds between two renewals")

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Lease:
        if self.heartbeat_s >= _TRUSTED_PART * self.seconds:
            raise PydanticCustomError(
                "heartbeat",
                f"lease.heartbeat_s {self.heartbeat_s:g} is not below 60 % of lease.seconds {self.seconds:g}",
                {"cure": "raise lease.seconds or lower lease.heartbeat_s"},
            )
        return self


class Work(Section):
    """Tasks, jobs and the processes that run them."""

    lost_after_s: Seconds = Field(default=1800, description="silence after which a job is LOST")
    wrapper_heartbeat_s: Seconds = Field(default=30, description="time between two signs of life of a worker")
    stop_grace_s: Seconds = Field(default=3, description="time a payload gets to end at a stop")
    max_jobs_per_task: Amount = Field(default=100_000, description="a task that splits into more is refused")
    ready_per_task: Amount = Field(default=1000, description="jobs of one task made ahead of need")
    python: str = Field(default_factory=lambda: sys.executable, description="runs Python payloads")

    @model_validator(mode="after")
    def _heard_before_lost(self) -> Work:
        if self.lost_after_s < 2 * self.wrapper_heartbeat_s:
            raise PydanticCustomError(
                "lost",
                f"work.lost_after_s {self.lost_after_s:g} is less than two heartbeats of "
                f"work.wrapper_heartbeat_s {self.wrapper_heartbeat_s:g}",
                {"cure": "raise work.lost_after_s or lower work.wrapper_heartbeat_s"},
            )
        return self


class Agent(Section):
    """The loop every daemon runs."""

    cycle_s: Seconds = Field(default=10, description="time between two cycles nothing wakes")


class Retry(Section):
    """Waiting between two attempts of a job."""

    base_s: Seconds = Field(default=60, description="wait before the first retry; doubles with each one")


class Block(Section):
    """When an open block closes: whichever comes first."""

    files: Amount = Field(default=500, description="a block with this many files closes")
    bytes: Amount = Field(default=5_000_000_000_000, description="a block of this size closes")
    age_s: Seconds = Field(default=66_400, description="a block this many seconds old closes")


class Transfer(Section):
    """Copies between storage elements."""

    window_max: Amount = Field(default=100, description="most copies in flight over one link")
    queue_max: Amount = Field(default=1000, description="most files queued on one link ahead of need")
    window_bytes: Amount = Field(
        default=10_000_000_000_000, description="bytes of one priority on their way to one storage element"
    )
    nominal_rate: Seconds = Field(
        default=5_000_000, description="bytes per second of a stream, on a link nothing was measured on"
    )
    deadline_s: Seconds = Field(
        default=3600, description="time after which one copy is given up; longer after a timeout"
    )
    workers: int = Field(
        default=4,
        ge=0,
        description="copies run at the same time by one transfer agent; 0: in its own thread, one by one",
    )


class Deletion(Section):
    """Replicas on their way out."""

    undelete_s: float = Field(
        default=86_400, ge=0, description="time between the word and the deed, in which it can be taken back"
    )
    files_per_hour: int = Field(
        default=0, ge=0, description="most files deleted at a storage element that names no rate; 0: no limit"
    )


class Subscription(Section):
    """Standing wishes for data."""

    move_grace_s: float = Field(
        default=604_800, ge=0, description="time a finished move leaves the other copies where they are"
    )


class Repair(Section):
    """Files that are missing or bad."""

    lost_after_s: Seconds = Field(
        default=10_800, description="a file without a good copy for so long is declared lost"
    )


class Api(Section):
    """The REST API and the live page."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=0, ge=0, le=65535, description="port to listen on; 0: a free one")


class Log(Section):
    """Messages on stderr or in log files."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="lowest shown")
    as_json: bool | None = Field(default=None, alias="json", description="unset: unless a terminal")


class Settings(BaseSettings):
    """Everything an installation may set. Get one from `load`; it never changes afterwards."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dir: FilePath = Field(default=Path("."), validate_default=True, description="home of database and spool")
    database: Database = Database()
    lease: Lease = Lease()
    work: Work = Work()
    agent: Agent = Agent()
    retry: Retry = Retry()
    block: Block = Block()
    transfer: Transfer = Transfer()
    deletion: Deletion = Deletion()
    subscription: Subscription = Subscription()
    repair: Repair = Repair()
    api: Api = Api()
    log: Log = Log()

    def database_url(self) -> str:
        """The URL to connect to, with the password: never print or log it. Raises UsageError."""
        url = self.database.url.replace("{dir}", str(self.dir))
        if self.database.password_file is None:
            return url
        scheme, _, rest = url.partition("://")
        user, at, host = rest.partition("@")
        if not at or "/" in user:
            raise UsageError(
                "database.password_file is set, but database.url names no user",
                hint="write the URL as postgresql+psycopg://USER@HOST/DATABASE",
            )
        password = read_secret(self.database.password_file)
        return f"{scheme}://{user.rstrip(':')}:{quote(password, safe='')}@{host}"


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and where it was given."""

    value: object
    where: str


_Layer = dict[str, _Given]


def load(
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings: defaults, then the TOML file, then TIERFLOW_<SECTION>__<KEY>, then the overrides.

    `overrides` are `{"lease.seconds": 6}`; None among their values means not given; environ None is the
    process's own. Relative paths in the file are taken from the file's directory. Raises UsageError.
    """
    layers = [_flags(overrides or {}), _environment(os.environ if environ is None else environ)]
    if path is not None:
        layers.append(_file(path))
    sources = tuple(InitSettingsSource(Settings, _nested(layer)) for layer in layers)
    try:
        return Settings(_build_sources=(sources, {}))  # type: ignore[call-arg]  # mypy sees only the fields
    except ValidationError as error:
        raise _flattened(error, layers) from None


def _flags(overrides: Mapping[str, object]) -> _Layer:
    layer = {key: _Given(value, f"flag {key}") for key, value in overrides.items() if value is not None}
    for key in layer:
        _check_known(key, f"flag {key}")
    return layer


def _environment(environ: Mapping[str, str]) -> _Layer:
    """The variables that are settings; other TIERFLOW_ names without `__` belong to payloads."""
    layer: _Layer = {}
    for name, value in environ.items():
        if name.startswith(PREFIX) and value and ("__" in name or name == PREFIX + "DIR"):
            key = name.removeprefix(PREFIX).lower().replace("__", ".")
            _check_known(key, f"environment {name}", _variable)
            layer[key] = _Given(value, f"environment {name}")
    return layer


def _file(path: Path) -> _Layer:
    layer: _Layer = {}
    for key, value in _parsed(path).items():
        where = f"{path}: {key}"
        _check_known(key, where)
        anchored = key in _PATHS and isinstance(value, str) and not value.startswith("~")
        layer[key] = _Given(path.absolute().parent / str(value) if anchored else value, where)
    return layer


def _parsed(path: Path) -> dict[str, object]:
    try:
        return _flat(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="name a readable settings file") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text", hint="save the file as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(
            f"{path}: {_one_line(str(error))}", hint='a line looks like: seconds = 300, or: host = "x"'
        ) from None


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """`{"lease": {"seconds": 6}}` as `{"lease.seconds": 6}`; an empty table vanishes."""
    flat: dict[str, object] = {}
    for name, value in table.items():
        if isinstance(value, dict) and (value or name in _sections()):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _nested(layer: _Layer) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, given in layer.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = given.value
    return tree


@cache
def _sections() -> dict[str, type[Section]]:
    types = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {
        name: kind for name, kind in types.items() if isinstance(kind, type) and issubclass(kind, Section)
    }


@cache
def _known() -> dict[str, FieldInfo]:
    """Every key, in the order of the classes."""
    known = {"dir": Settings.model_fields["dir"]}
    for name, section in _sections().items():
        known |= {f"{name}.{field.alias or own}": field for own, field in section.model_fields.items()}
    return known


def _keys_of(section: str) -> list[str]:
    return [key for key in _known() if key.startswith(section + ".")]


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "__")


def _check_known(key: str, where: str, spell: Callable[[str], str] = str) -> None:
    """Raises UsageError for a key that is none; `spell` writes the key to use instead as given there."""
    if key in _known():
        return
    if key in _sections():
        hint = f"{key} is a section: write one of {', '.join(map(spell, _keys_of(key)))}"
    elif near := _nearest(key):
        hint = f"did you mean {spell(near)}?"
    else:
        hint = f"the sections are {', '.join(_sections())}"
    raise UsageError(f"{where} is no setting", hint=hint)


def _nearest(key: str) -> str | None:
    """The known key that looks most like this one; the same name in another section comes first."""
    name = key.rpartition(".")[2]
    moved = [known for known in _known() if known.rpartition(".")[2] == name]
    return next(iter(moved or difflib.get_close_matches(key, _known(), n=1, cutoff=0.6)), None)


def _flattened(error: ValidationError, layers: list[_Layer]) -> UsageError:
    """The first of pydantic's complaints as one line: file, key, what, cure."""
    complaints = error.errors(include_url=False)
    first = complaints[0]
    key = ".".join(str(part) for part in first["loc"][:2])
    cure = first.get("ctx", {}).get("cure") or _meaning(key)
    more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
    return UsageError(f"{_where(key, layers)}{_complaint(first)}{more}", hint=cure)


def _where(key: str, layers: list[_Layer]) -> str:
    """Where the key, or a key of that section, was given last."""
    for layer in layers:
        for known, given in layer.items():
            if known == key or known.startswith(key + "."):
                return given.where
    return key


def _complaint(details: ErrorDetails) -> str:
    what = _one_line(details["msg"])
    if "cure" in details.get("ctx", {}):
        return f": {what}"
    shown = repr(details["input"])
    value = shown if len(shown) <= 60 else shown[:57] + "..."
    return f" = {_one_line(value)}: {what[:1].lower()}{what[1:]}"


def _meaning(key: str) -> str | None:
    field = _known().get(key)
    return field and f"{key}: {field.description}; default {_default(field)}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def read_secret(path: Path) -> str:
    """The first line of a secret file. Raises UsageError where others could read it or it is empty."""
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(f"{path}: others can read this secret", hint=f"chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="name a readable secret file") from None
    if not lines or not lines[0]:
        raise UsageError(f"{path}: no secret in the first line", hint="write the secret as the first line")
    return lines[0]


def document() -> str:
    """The page docs/settings.md, from the classes above."""
    parts = [_INTRODUCTION, _table(["dir"])]
    for name, section in _sections().items():
        parts.append(f"## {name}\n\n{section.__doc__}\n\n{_table(_keys_of(name))}")
    return "\n".join(parts)


_INTRODUCTION = """# Settings

Written by `gridcore.settings.document()`; a test keeps it so.

A value comes from the defaults below, then the TOML file, then the environment, then flags: the last one
given wins. In the file, `lease.seconds` is `seconds` in the table `[lease]`. An empty variable counts as
not given. An unknown key is refused. Paths in the file are relative to the file; all times are in seconds.
"""


def _table(keys: Iterable[str]) -> str:
    lines = ["| Key | Default | Environment | Meaning |", "|---|---|---|---|"]
    for key in keys:
        field = _known()[key]
        lines.append(f"| `{key}` | {_default(field)} | `{_variable(key)}` | {field.description} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "the interpreter that runs tierflow"
    if field.default is None:
        return "unset"
    if isinstance(field.default, str | Path):
        return f"`{field.default}`" if str(field.default) else "empty"
    return str(field.default)
