"""Names and keys: their types, grammar, parsing and formatting. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple, NewType

from gridcore.errors import UsageError

LFN = NewType("LFN", str)
PFN = NewType("PFN", str)

LFN_MAX = 500
COMPONENT_MAX = 200
_COMPONENT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_LFN = re.compile(rf"/store(/{_COMPONENT})+")
_NOT_IN_LFNS = re.compile(r"[^A-Za-z0-9._/-]")
_DATASET = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]{0,98}){2}/[A-Z0-9-]{1,20}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,98}")
_SITE = re.compile(r"T[0-3]_[A-Z]{2}_[A-Za-z0-9]{1,30}")
_BATCH_KEY = re.compile(r"tf\.([0-9a-f]{8})\.([0-9]+)\.([0-9]+)")


class BatchKey(NamedTuple):
    """What a batch job carries so that it can be found again: `tf.<instance8>.<job>.<attempt>`."""

    instance: str
    job: int
    attempt: int

    def __str__(self) -> str:
        return f"tf.{self.instance[:8]}.{self.job}.{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> BatchKey | None:
        """The key, or None where the text is somebody else's."""
        match = _BATCH_KEY.fullmatch(text)
        return cls(match[1], int(match[2]), int(match[3])) if match else None


def check_lfn(text: str) -> LFN:
    """The text as an LFN. Raises UsageError naming what is wrong with it."""
    if len(text) > LFN_MAX or any(len(part) > COMPONENT_MAX for part in text.split("/")):
        raise UsageError(
            f"an LFN of {len(text)} characters is too long: at most {LFN_MAX}, {COMPONENT_MAX} a part",
            hint=f"it begins with {text[:60]!r}",
        )
    if not _LFN.fullmatch(text) or ".." in text:
        raise UsageError(
            f"{text!r} is no LFN: {_no_lfn(text)}", hint="an LFN looks like /store/group/name.root"
        )
    return LFN(text)


def _no_lfn(text: str) -> str:
    """What is wrong with it, for people."""
    if odd := _NOT_IN_LFNS.search(text):
        return f"it has {odd[0]!r} in it; letters, digits, '.', '_' and '-' may stand between slashes"
    if not text.startswith("/store/"):
        return "it does not begin with /store/"
    if ".." in text:
        return "it has '..' in it"
    if "//" in text or text.endswith("/"):
        return "a part between slashes is empty"
    return "a part begins with neither a letter nor a digit"


def check_dataset(text: str) -> str:
    """The text as a dataset name. Raises UsageError."""
    if not _DATASET.fullmatch(text):
        raise UsageError(
            f"{text!r} is no dataset name", hint="a dataset is /primary/processed/TIER, the tier in capitals"
        )
    return text


def check_label(text: str, what: str = "name") -> str:
    """The text as a label: letters, digits, '.', '_' and '-'. Raises UsageError."""
    if not _LABEL.fullmatch(text):
        raise UsageError(f"{text!r} is no {what}", hint="letters, digits, '.', '_' and '-', at most 99")
    return text


def check_site(text: str) -> str:
    """The text as a site name such as T1_DE_Alder. Raises UsageError."""
    if not _SITE.fullmatch(text):
        raise UsageError(f"{text!r} is no site name", hint="a site is T<tier>_<country>_<Name>: T2_RU_Elm")
    return text


def tier_of(site: str) -> int:
    """0 to 3: the number in the site's name."""
    return int(site[1])


def task_name(now: datetime, user: str, label: str, repeat: int = 1) -> str:
    """`YYMMDD_HHMMSS:<user>_<label>`; the second of the same name ends in `-2`."""
    suffix = "" if repeat == 1 else f"-{repeat}"
    return f"{now:%y%m%d_%H%M%S}:{user}_{label}{suffix}"


def job_name(task: str, index: int, attempt: int | None = None) -> str:
    """`task/17`, or `task/17.2` for the second attempt."""
    return f"{task}/{index}" if attempt is None else f"{task}/{index}.{attempt}"


def parse_job_name(text: str) -> tuple[str, int, int | None]:
    """(task, index, attempt or None) of a job's or attempt's name. Raises UsageError."""
    match = re.fullmatch(r"(.+)/([0-9]+)(?:\.([0-9]+))?", text)
    if not match:
        raise UsageError(f"{text!r} is no job name", hint="a job is TASK/17, an attempt TASK/17.2")
    return match[1], int(match[2]), int(match[3]) if match[3] else None


def split_lfn(lfn: str) -> tuple[str, str]:
    """(directory, name)."""
    directory, _, name = lfn.rpartition("/")
    return directory, name


def output_lfn(area: str, task: str, index: int, attempt: int, stem: str, extension: str) -> LFN:
    """The LFN of one attempt's output, unique per attempt; the task's colon is written `_`."""
    mark = "" if attempt == 1 else f"-a{attempt}"
    folder = task.replace(":", "_")
    return check_lfn(f"{area}/{folder}/{index // 1000}/{stem}_{index}{mark}.{extension}")
