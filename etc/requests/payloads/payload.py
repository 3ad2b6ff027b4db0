"""What the payload scripts share: job file, report, ending, and the formats they read and write."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

# CRAB and WMCore exit codes; the process ends with the low byte, as cmsRun's does.
OTHER = 8001
NO_MEMORY = 8004
CONFIGURATION = 8009
EVENTS_DIFFER = 8016
CANNOT_OPEN = 8020
CANNOT_READ = 8021
INPUTS_DIFFER = 8023
CANNOT_WRITE = 8033
GENERATION = 8501
SOFTWARE_MISSING = 10034

Runs = dict[str, list[list[int]]]

CHUNK = "32 MB"
# Low, high and bins. The spectators of peripheral events peak at |eta| 3.6: pT is taken at mid-rapidity.
HISTOGRAMS = {"eta": (-3.0, 3.0, 24), "pt": (0.0, 2.0, 20)}
PT_ETA_MAX = 1.0
IMPACT_CLASSES = ((0.0, 5.0), (5.0, 10.0), (10.0, 20.0))


class Failure(Exception):
    """The job cannot end well: an exit code from above and one line for the shifter."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Input:
    """A staged-in file: its name here, its LFN, and the catalogue's events (None: unknown) and runs."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.name: str = raw["name"]
        self.lfn: str = raw.get("lfn") or raw["name"]
        self.events: int | None = raw.get("events")
        self.runs: Runs = raw.get("runs") or {}

    def check(self, events: int) -> int:
        """The events counted in the file. Raises Failure where the catalogue states another number."""
        if self.events is not None and events != self.events:
            raise Failure(
                EVENTS_DIFFER, f"{self.lfn} holds {events} events, the catalogue says {self.events}"
            )
        return events


class Job:
    """What this attempt has to do, as the wrapper wrote it to `$TIERFLOW_JOB`."""

    def __init__(self, raw: dict[str, Any]) -> None:
        if raw["version"] != 1:
            raise Failure(CONFIGURATION, f"job file version {raw['version']}: these scripts know version 1")
        self.task: str = raw["task"]
        self.index: int = raw["index"]
        self.seed: int = raw["seed"]
        self.salt: str = raw["salt"]
        self.first_event: int = raw["first_event"] or 0
        self.events: int | None = raw["events"]
        self.run: int = raw["run"]
        self.lumi: int = raw["lumi"]
        self.inputs: list[Input] = [Input(one) for one in raw["inputs"]]
        self.outputs: list[str] = [one["name"] for one in raw["outputs"]]

    def output(self) -> str:
        """The name of the job's only output. Raises Failure where it declares none or several."""
        if len(self.outputs) != 1:
            raise Failure(
                CONFIGURATION, f"this script writes one output, the task declares {len(self.outputs)}"
            )
        return self.outputs[0]

    def wanted_events(self) -> int:
        """How many events a generator has to make. Raises Failure where the job does not say."""
        if not self.events or self.events < 0:
            raise Failure(
                CONFIGURATION, f"a generator needs a number of events, {self.task}/{self.index} has none"
            )
        return self.events

    def read_inputs(self) -> list[Input]:
        """The inputs. Raises Failure where there are none."""
        if not self.inputs:
            raise Failure(CONFIGURATION, f"this script reads files, {self.task}/{self.index} has no input")
        return self.inputs

    def runs(self) -> Runs:
        """The run and lumi ranges the outputs cover: the inputs' together, else this job's own."""
        own = {str(self.run): [[self.lumi, self.lumi]]}
        return united(one.runs for one in self.inputs) if self.inputs else own


def job() -> Job:
    """This attempt's job. Raises Failure where the file is missing or malformed."""
    path = os.environ.get("TIERFLOW_JOB")
    if not path:
        raise Failure(CONFIGURATION, "TIERFLOW_JOB is not set: this script runs inside a Tierflow job")
    try:
        with open(path, encoding="utf-8") as stream:
            return Job(json.load(stream))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(
            CONFIGURATION, f"job file {path} is unreadable: {type(error).__name__}: {error}"
        ) from error


def report(job: Job, *, events: int, events_read: int = 0) -> None:
    """State what the only output holds. Written last: a report means that the output is complete."""
    output = {"name": job.output(), "events": events, "runs": job.runs()}
    content = {"version": 1, "outputs": [output], "events_read": events_read}
    path = os.environ.get("TIERFLOW_REPORT")
    if not path:
        raise Failure(CONFIGURATION, "TIERFLOW_REPORT is not set: this script runs inside a Tierflow job")
    write_json(path, content)


def write_json(path: str, content: object) -> None:
    """Write all of it or nothing: to a temporary name, then renamed."""
    with open(f"{path}.part", "w", encoding="utf-8") as stream:
        stream.write(json.dumps(content) + "\n")
    os.replace(f"{path}.part", path)


def united(parts: Iterable[Runs]) -> Runs:
    """The union of lumi ranges, run by run, with touching ranges joined."""
    ranges: dict[str, list[list[int]]] = {}
    for part in parts:
        for run, pairs in part.items():
            ranges.setdefault(run, []).extend(pairs)
    return {run: joined(pairs) for run, pairs in sorted(ranges.items(), key=lambda item: int(item[0]))}


def joined(pairs: list[list[int]]) -> list[list[int]]:
    """The same numbers as sorted, disjoint [first, last] ranges."""
    result: list[list[int]] = []
    for first, last in sorted(pairs):
        if result and first <= result[-1][1] + 1:
            result[-1][1] = max(result[-1][1], last)
        else:
            result.append([first, last])
    return result


def open_tree(path: str, name: str = "event") -> Any:
    """The ROOT tree, a context manager. Raises Failure unless the file is whole and has that tree."""
    check_root_end(path)
    import uproot

    try:
        return uproot.open({path: name}, array_cache=None)
    except uproot.KeyInFileError as error:
        raise Failure(CANNOT_READ, f"{path} has no tree named {name}") from error
    except Exception as error:
        raise Failure(CANNOT_OPEN, f"{path} does not open: {type(error).__name__}: {error}") from error


def check_root_end(path: str) -> None:
    """Raise Failure unless this is a ROOT file whose header states the size that it has."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(20)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise Failure(CANNOT_OPEN, f"{path} does not open: {error.strerror}") from error
    if head[:4] != b"root":
        raise Failure(CANNOT_OPEN, f"{path} is no ROOT file ({size} bytes)")
    big = int.from_bytes(head[4:8], "big") >= 1_000_000
    end = int.from_bytes(head[12 : 20 if big else 16], "big")
    if end != size:
        raise Failure(CANNOT_READ, f"{path} is incomplete: {size} bytes, its header states {end}")


def root_chunks(source: Input, branches: list[str]) -> Iterator[Any]:
    """The branches of an input's events, one awkward array after another, its number of events checked."""
    with open_tree(source.name) as tree:
        source.check(tree.num_entries)
        missing = sorted(set(branches) - set(tree.keys()))
        if missing:
            raise Failure(INPUTS_DIFFER, f"{source.lfn} lacks the branches {', '.join(missing)}")
        yield from chunks(source, tree, branches)


def chunks(source: Input, tree: Any, branches: list[str]) -> Iterator[Any]:
    """The branches of an open tree of the input. Raises Failure where its bytes do not read back."""
    try:
        yield from tree.iterate(filter_name=lambda name: name in branches, step_size=CHUNK)
    except Exception as error:
        raise Failure(
            CANNOT_READ, f"{source.lfn} does not read back: {type(error).__name__}: {error}"
        ) from error


def write_text(path: str, salt: str, lines: Iterable[str]) -> int:
    """Write event lines between a header with the salt and a footer with the count, which is returned."""
    count = 0
    with open(f"{path}.part", "w", encoding="utf-8") as stream:
        stream.write(f"# toy 1 salt {salt}\n")
        for line in lines:
            stream.write(line + "\n")
            count += 1
        stream.write(f"# end {count}\n")
    os.replace(f"{path}.part", path)
    return count


def event_lines(source: Input) -> Iterator[str]:
    """The event lines of a toy input, their number checked."""
    count = 0
    for line in text_lines(source.name):
        count += 1
        yield line
    source.check(count)


def text_lines(path: str) -> Iterator[str]:
    """The event lines of a text file. Raises Failure where a section lacks its footer or counts otherwise."""
    count: int | None = None
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("# toy 1 "):
                    count = 0
                elif line == f"# end {count}\n":
                    count = None
                elif line.startswith("#") or count is None:
                    raise Failure(
                        CANNOT_READ, f"{path} is no whole toy file: {line[:40]!r} after {count} events"
                    )
                else:
                    count += 1
                    yield line
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(CANNOT_OPEN, f"{path} does not open: {error}") from error
    if count is not None:
        raise Failure(CANNOT_READ, f"{path} is cut off after {count} events")


class Histograms:
    """Charged particles in bins of eta and pT by impact parameter (fm); squares of events give the errors."""

    def __init__(self, sample: str) -> None:
        self.sample = sample
        self.classes = [self._empty(low, high) for low, high in IMPACT_CLASSES]

    @staticmethod
    def _empty(low: float, high: float) -> dict[str, Any]:
        blank: dict[str, Any] = {"impact": [low, high], "events": 0}
        for name, (_, _, bins) in HISTOGRAMS.items():
            blank[name] = {"counts": [0] * bins, "squares": [0] * bins}
        return blank

    def add(self, impact: float, **counts: Sequence[int]) -> None:
        """One event: its impact parameter and, for each quantity, its particles in each bin."""
        one = next((c for c in self.classes if impact < c["impact"][1]), self.classes[-1])
        one["events"] += 1
        for name, values in counts.items():
            total = one[name]
            total["counts"] = [a + int(n) for a, n in zip(total["counts"], values, strict=True)]
            total["squares"] = [a + int(n) ** 2 for a, n in zip(total["squares"], values, strict=True)]

    def write(self, path: str) -> int:
        """Write the file and return its number of events."""
        events: int = sum(one["events"] for one in self.classes)
        edges = {name: edges_of(name) for name in HISTOGRAMS}
        content = {"version": 1, "sample": self.sample, "events": events, "edges": edges}
        write_json(path, content | {"classes": self.classes})
        return events


def read_histograms(path: str) -> dict[str, Any]:
    """A histogram file's content. Raises Failure where it is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        known = content["version"] == 1 and content["events"] == sum(
            one["events"] for one in content["classes"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(CANNOT_READ, f"{path} is no histogram file: {type(error).__name__}: {error}") from error
    if not known:
        raise Failure(CANNOT_READ, f"{path} is of another version, or its classes do not sum to its events")
    return dict(content)


def edges_of(name: str) -> list[float]:
    """The bin edges of a quantity, one more than it has bins."""
    low, high, bins = HISTOGRAMS[name]
    return [round(low + (high - low) * i / bins, 6) for i in range(bins + 1)]


def run(main: Callable[[], None]) -> NoReturn:
    """Run the script's main and end the process: 0, or one line on stderr and the code's low byte."""
    try:
        main()
    except Failure as failure:
        _end(failure.code, str(failure))
    except ModuleNotFoundError as error:
        _end(SOFTWARE_MISSING, f"the site's python lacks {error.name}: install tierflow with its demo extra")
    except MemoryError:
        _end(NO_MEMORY, "out of memory")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        _end(CANNOT_WRITE if full else OTHER, f"{type(error).__name__}: {error}")
    except Exception as error:
        import traceback

        traceback.print_exc(file=sys.stdout)
        _end(OTHER, f"{type(error).__name__}: {str(error)[:200]}")
    raise SystemExit(0)


def _end(code: int, message: str) -> NoReturn:
    print(f"{code} {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code % 256)


def summed(contents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The sum of histogram files by name. Raises Failure where their bins, classes or samples differ."""
    names = list(contents)
    total = contents[names[0]]
    for name in names[1:]:
        other = contents[name]
        if _frame(other) != _frame(total):
            raise Failure(INPUTS_DIFFER, f"{name} has other bins or another sample than {names[0]}")
        total["events"] += other["events"]
        for one, more in zip(total["classes"], other["classes"], strict=True):
            one["events"] += more["events"]
            for axis in total["edges"]:
                for column in ("counts", "squares"):
                    pairs = zip(one[axis][column], more[axis][column], strict=True)
                    one[axis][column] = [a + b for a, b in pairs]
    return total


def _frame(content: dict[str, Any]) -> tuple[Any, ...]:
    """What files must share to be added."""
    return content["sample"], content["edges"], [one["impact"] for one in content["classes"]]
