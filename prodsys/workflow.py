"""What is asked for: the document of a request or task, checked at the border, and its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gridcore.documents import checked, read_toml
from gridcore.errors import GridError, UsageError
from gridcore.ids import check_dataset, check_label, check_lfn, check_site
from prodsys import sandbox


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds a control character; an argument is printable text")
    return text


Word = Annotated[str, StringConstraints(min_length=1, max_length=4000), AfterValidator(_printable)]
Argv = Annotated[list[Word], Field(min_length=1)]
Amount = Annotated[int, Field(gt=0, le=10**12)]
Seconds = Annotated[float, Field(gt=0, le=10**8)]


def _checked(check: Any) -> AfterValidator:
    def validate(text: str) -> str:
        try:
            return str(check(text))
        except GridError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None

    return AfterValidator(validate)


Label = Annotated[str, _checked(check_label)]
DatasetName = Annotated[str, _checked(check_dataset)]
SiteName = Annotated[str, _checked(check_site)]
OutputName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,60}\.[A-Za-z0-9]{1,10}$")]


class Document(BaseModel):
    """A part of the document: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Limits(Document):
    """What one job may use."""

    cores: Annotated[int, Field(gt=0, le=1024)] = 1
    wall_s: Seconds = 86_400
    memory_mb: Amount | None = None


class Output(Document):
    """The file each job writes and the dataset it belongs to."""

    name: OutputName
    dataset: DatasetName


class Merge(Document):
    """How small outputs become files worth keeping: a declared executable like any other."""

    command: Argv
    min_bytes: Amount
    max_bytes: Amount
    max_events: Amount | None = None
    max_inputs: Annotated[int, Field(gt=0, le=5000)] = 500
    max_wait_s: Seconds = 43_200

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


class Step(Document):
    """One task: what runs, over which events or files, where, and what becomes of its output."""

    name: Label
    command: Argv
    sandbox: list[str] = []
    env: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Word] = {}
    events: Amount | None = None
    events_per_job: Amount | None = None
    input: str | None = None
    files_per_job: Amount = 1
    output: Output
    merge: Merge | None = None
    limits: Limits = Limits()
    sites: list[SiteName] | None = None
    sites_excluded: list[SiteName] = []
    platform: str | None = None
    deliver: list[Delivery] = []
    block: BlockPolicy = BlockPolicy()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.events is None) == (self.input is None):
            raise ValueError("give either events (to generate) or input (to read), not both and not neither")
        if self.events is not None and self.events_per_job is None:
            raise ValueError("events_per_job is missing; say how many events one job makes")
        if self.input is not None and self.input.startswith("/"):
            try:
                check_dataset(self.input)
            except UsageError as error:
                raise ValueError(f"input: {error.message}; {error.hint}") from None
        if self.sites == []:
            raise ValueError("sites is empty; leave it out to allow every site")
        return self


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


def read(path: Path) -> tuple[Request, dict[str, bytes]]:
    """The document in a TOML file and its steps' packed sandboxes by step name.

    Sandbox files are named relative to the document. Raises UsageError: one line with file, key and cure.
    """
    request = parse(read_toml(path), str(path))
    return request, {step.name: _packed(step, path) for step in request.step}


def parse(values: Any, source: str) -> Request:
    """The checked document. Raises UsageError."""
    return checked(Request, values, source)


def _packed(step: Step, document: Path) -> bytes:
    where = f"{document}: step {step.name!r}"
    files: dict[str, bytes] = {}
    for name in step.sandbox:
        path = document.parent / name
        if not path.is_file():
            raise UsageError(f"{where}: sandbox file {name!r} does not exist", hint=f"looked for {path}")
        files[path.name] = path.read_bytes()
    for command in [step.command, *([step.merge.command] if step.merge else [])]:
        _check_executable(command, files, where)
    packed = sandbox.pack(files)
    sandbox.check(packed)
    return packed


def _check_executable(command: list[str], files: dict[str, bytes], where: str) -> None:
    program = command[1] if command[0] == "python" and len(command) > 1 else command[0]
    if "/" not in program and program not in files and program != "python":
        raise UsageError(
            f"{where}: the executable {program!r} is not in the sandbox",
            hint=f"add it to sandbox, which holds {', '.join(sorted(files)) or 'nothing'}",
        )
