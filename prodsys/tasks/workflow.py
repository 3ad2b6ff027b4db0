"""What is asked for: the document of a request or task, checked at the border, and its steps. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from gridcore.documents import checked
from gridcore.errors import GridError, UsageError
from gridcore.ids import check_dataset, check_label, check_lfn, check_site
from prodsys.tasks import lumis, matrix

#: Points a parameter matrix may have, files a step may name.
MAX_POINTS = 1_000_000
MAX_FILES = 10_000


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds a control character; an argument is printable text")
    return text


Word = Annotated[str, StringConstraints(min_length=1, max_length=4000), AfterValidator(_printable)]
Argv = Annotated[list[Word], Field(min_length=1)]
Amount = Annotated[int, Field(gt=0, le=10**12)]
Seconds = Annotated[float, Field(gt=0, le=10**8)]


def _checked(check: Any) -> AfterValidator:
    return AfterValidator(lambda text: str(_told(lambda: check(text))))


def _mask(raw: Any) -> Any:
    """The mask in its one form, so that what is stored is compact and was looked at."""
    if isinstance(raw, str):
        raise ValueError("it names a file, and only a document in a file can; write the mask itself")
    return _told(lambda: lumis.to_json(lumis.parse(raw)))


def _few(raw: Any) -> Any:
    """A list that is far too long is refused before its items are looked at."""
    if isinstance(raw, list | tuple) and len(raw) > MAX_FILES:
        raise ValueError(
            f"{len(raw):,} files are named, at most {MAX_FILES:,} are allowed; make them a dataset"
        )
    return raw


def _runs(text: str) -> str:
    _told(lambda: lumis.parse_runs(text))
    return text


def _told(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except GridError as error:
        raise ValueError(f"{error.message}; {error.hint}") from None


Mask = Annotated[dict[str, Any], BeforeValidator(_mask)]
Runs = Annotated[str, StringConstraints(min_length=1, max_length=200_000), AfterValidator(_runs)]
Parameter = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,60}$")]
Value = bool | int | float | Word
Values = Annotated[list[Value], Field(max_length=10_000)]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+/-]{0,99}$")]
Label = Annotated[str, _checked(check_label)]
Lfn = Annotated[str, _checked(check_lfn)]
DatasetName = Annotated[str, _checked(check_dataset)]
SiteName = Annotated[str, _checked(check_site)]
OutputName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,60}\.[A-Za-z0-9]{1,10}$")]


class Document(BaseModel):
    """A part of the document: unknown keys are refused.

    Keys in `SINCE` are younger than the first release, whose agents refuse them: they are written only where
    they say something.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    SINCE: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        unsaid = {name for name in self.SINCE if getattr(self, name) == fields[name].default}
        return {name: value for name, value in values.items() if name not in unsaid}


class Limits(Document):
    """What one job may use."""

    SINCE: ClassVar[frozenset[str]] = frozenset(["disk_mb", "gpus"])

    cores: Annotated[int, Field(gt=0, le=1024)] = 1
    wall_s: Seconds = 86_400
    memory_mb: Amount | None = None
    disk_mb: Amount | None = None
    gpus: Annotated[int, Field(ge=0, le=64)] = 0


class Output(Document):
    """The file each job writes and the dataset it belongs to."""

    name: OutputName
    dataset: DatasetName


class Merge(Document):
    """How small outputs become files worth keeping: a declared executable like any other.

    Without `across_runs` only outputs of the same runs are merged with each other.
    """

    SINCE: ClassVar[frozenset[str]] = frozenset(["across_runs"])

    command: Argv
    min_bytes: Amount
    max_bytes: Amount
    max_events: Amount | None = None
    max_inputs: Annotated[int, Field(gt=0, le=5000)] = 500
    max_wait_s: Seconds = 43_200
    across_runs: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_bytes > self.max_bytes:
            raise ValueError("min_bytes is larger than max_bytes; swap them")
        return self


class Delivery(Document):
    """Where the output shall be."""

    se: Label
    custodial: bool = False


class BlockPolicy(Document):
    """When an open block of the output closes; what is left out is the installation's default."""

    files: Amount | None = None
    bytes: Amount | None = None
    age_s: Seconds | None = None


class Splitting(StrEnum):
    """What a step's jobs are cut by."""

    EVENTS = "events"
    MATRIX = "matrix"
    FILES = "files"
    SIZE = "size"
    LUMIS = "lumis"
    #: Whole lumis, as many as hold so many events.
    EVENT_AWARE = "event-aware lumis"


#: What cuts an input, and how.
_CUTS = {
    "lumis_per_job": Splitting.LUMIS,
    "events_per_job": Splitting.EVENT_AWARE,
    "bytes_per_job": Splitting.SIZE,
}
_OF_INPUT = ("lumis_per_job", "bytes_per_job", "mask", "runs", "files", "split_on_run")


class Step(Document):
    """One task: what runs, over which events, points or input, where, and what becomes of its output.

    Input is cut by one of `files_per_job`, `bytes_per_job`, `lumis_per_job` and `events_per_job`, the last in
    whole lumis. `mask`, `runs` and `files` say which part of it is read, `split_on_run` that no job reads two
    runs. A lumi of more than `max_events_per_job` is held for an operator.
    """

    SINCE: ClassVar[frozenset[str]] = frozenset(
        [*_OF_INPUT, "max_events_per_job", "matrix", "tags", "outbound"]
    )

    name: Label
    command: Argv
    sandbox: list[str] = []
    env: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Word] = {}
    events: Amount | None = None
    events_per_job: Amount | None = None
    matrix: dict[Parameter, Values] | None = None
    input: str | None = None
    files_per_job: Amount = 1
    bytes_per_job: Amount | None = None
    lumis_per_job: Amount | None = None
    max_events_per_job: Amount | None = None
    split_on_run: bool = False
    mask: Mask | None = None
    runs: Runs | None = None
    files: Annotated[list[Lfn], BeforeValidator(_few), Field(min_length=1)] | None = None
    output: Output
    merge: Merge | None = None
    limits: Limits = Limits()
    sites: list[SiteName] | None = None
    sites_excluded: list[SiteName] = []
    platform: str | None = None
    tags: Annotated[list[Tag], Field(max_length=50)] = []
    outbound: bool = False
    deliver: list[Delivery] = []
    block: BlockPolicy = BlockPolicy()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.events is not None and self.input is not None:
            raise ValueError("give either events (to generate) or input (to read), not both")
        if self.events is None and self.input is None and self.matrix is None:
            raise ValueError("give events (to generate), input (to read) or matrix (to try each point once)")
        if self.input is not None and self.input.startswith("/"):
            try:
                check_dataset(self.input)
            except UsageError as error:
                raise ValueError(f"input: {error.message}; {error.hint}") from None
        if self.sites == []:
            raise ValueError("sites is empty; leave it out to allow every site")
        return self

    @model_validator(mode="after")
    def _one_splitting(self) -> Self:
        if self.input is None:
            self._check_generating()
        else:
            self._check_reading()
        return self

    def _check_generating(self) -> None:
        if self.events is not None and self.events_per_job is None:
            raise ValueError("events_per_job is missing; say how many events one job makes")
        if self.events is None and self.events_per_job is not None:
            raise ValueError("events_per_job needs events; leave it out to run each point once")
        for name in (*_OF_INPUT, "max_events_per_job"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} cuts or selects input, and this step reads none; leave it out")
        if self.matrix is not None:
            points = self.matrix
            _told(lambda: matrix.check(points, MAX_POINTS))

    def _check_reading(self) -> None:
        if self.matrix is not None:
            raise ValueError("a matrix goes with events or alone; make one step for each value instead")
        given = [name for name in _CUTS if getattr(self, name) is not None]
        if self.files_per_job > 1:
            given.append("files_per_job")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say how to cut the input; keep one of them")
        if self.max_events_per_job is None:
            return
        if self.events_per_job is None:
            raise ValueError("max_events_per_job goes with events_per_job; leave it out")
        if self.max_events_per_job < self.events_per_job:
            raise ValueError("max_events_per_job is less than events_per_job; raise it")

    @property
    def splitting(self) -> Splitting:
        """What its jobs are cut by."""
        if self.input is None:
            return Splitting.EVENTS if self.matrix is None else Splitting.MATRIX
        given = [way for name, way in _CUTS.items() if getattr(self, name) is not None]
        return given[0] if given else Splitting.FILES

    @property
    def unit_kind(self) -> str:
        """What its units are: events, points, files or lumis."""
        if self.input is None:
            return "points" if self.events is None else "events"
        by_lumi = self.splitting in (Splitting.LUMIS, Splitting.EVENT_AWARE)
        return "lumis" if by_lumi else "files"

    @property
    def units_total(self) -> int | None:
        """All of its units, None where they depend on input."""
        if self.input is not None:
            return None
        return (matrix.count(self.matrix) if self.matrix else 1) * (self.events or 1)

    @property
    def extensible(self) -> bool:
        """Whether more events may be asked for later: the points of a matrix share theirs out once."""
        return self.splitting == Splitting.EVENTS


class Request(Document):
    """What a group asks for: steps chained by dataset."""

    name: Label
    group: Label
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    lfn_area: Annotated[str, _checked(check_lfn)]
    step: Annotated[list[Step], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _chained(self) -> Self:
        seen: set[str] = set()
        for step in self.step:
            if step.name in seen:
                raise ValueError(f"two steps are called {step.name!r}; give each its own name")
            if step.input is not None and not step.input.startswith("/") and step.input not in seen:
                raise ValueError(
                    f"step {step.name!r} reads {step.input!r}, which is no earlier step and no dataset; "
                    f"earlier steps: {', '.join(sorted(seen)) or 'none'}"
                )
            seen.add(step.name)
        datasets = [step.output.dataset for step in self.step]
        if len(set(datasets)) < len(datasets):
            raise ValueError("two steps write the same dataset; give each its own")
        return self

    def input_of(self, step: Step) -> str | None:
        """The dataset a step reads, None for one that generates."""
        by_name = {one.name: one.output.dataset for one in self.step}
        return None if step.input is None else by_name.get(step.input, step.input)


def parse(values: Any, source: str) -> Request:
    """The checked document. Raises UsageError."""
    return checked(Request, values, source)
