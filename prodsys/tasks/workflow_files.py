"""The files of a request: its document, and the sandbox files and lumi masks which that names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gridcore.documents import read_toml
from gridcore.errors import UsageError
from prodsys import sandbox
from prodsys.tasks import lumis, workflow
from prodsys.tasks.workflow import Request, Step

#: Bytes of a lumi mask.
MAX_MASK_BYTES = 5_000_000


def read(path: Path) -> tuple[Request, dict[str, bytes]]:
    """The document in a TOML file and its steps' packed sandboxes by step name.

    Sandbox files and lumi masks are named relative to the document. Raises UsageError: one line with file,
    key and cure.
    """
    request = workflow.parse(_with_masks(read_toml(path), path), str(path))
    return request, {step.name: packed(step, path) for step in request.step}


def _with_masks(values: dict[str, Any], document: Path) -> dict[str, Any]:
    """The document with the content of the mask files that its steps name."""
    steps = values.get("step")
    for number, step in enumerate(steps if isinstance(steps, list) else [], start=1):
        if isinstance(step, dict) and isinstance(step.get("mask"), str):
            step["mask"] = _read_mask(document.parent / step["mask"], f"{document}: step.{number}.mask")
    return values


def _read_mask(path: Path, where: str) -> Any:
    try:
        if not path.is_file():  # a pipe or device would be read for ever
            raise UsageError(f"{where}: {path.name!r} is no file", hint=f"looked for {path}")
        if path.stat().st_size > MAX_MASK_BYTES:
            raise UsageError(
                f"{where}: {path.name!r} is larger than {MAX_MASK_BYTES // 1_000_000} MB",
                hint="write neighbouring lumis as one range, or cut the request into several tasks",
            )
        return lumis.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {path.name!r} cannot be read: {error}", hint="check the path") from None
    except UsageError as error:
        already = error.message.startswith(where)
        raise error if already else UsageError(f"{where}: {error.message}", hint=error.hint) from None


def packed(step: Step, document: Path) -> bytes:
    """The step's packed sandbox, its files named relative to the document. Raises UsageError."""
    where = f"{document}: step {step.name!r}"
    files: dict[str, bytes] = {}
    for name in step.sandbox:
        path = document.parent / name
        if not path.is_file():
            raise UsageError(f"{where}: sandbox file {name!r} does not exist", hint=f"looked for {path}")
        files[path.name] = path.read_bytes()
    for command in [step.command, *([step.merge.command] if step.merge else [])]:
        _check_executable(command, files, where)
    content = sandbox.pack(files)
    sandbox.check(content)
    return content


def _check_executable(command: list[str], files: dict[str, bytes], where: str) -> None:
    program = command[1] if command[0] == "python" and len(command) > 1 else command[0]
    if "/" not in program and program not in files and program != "python":
        raise UsageError(
            f"{where}: the executable {program!r} is not in the sandbox",
            hint=f"add it to sandbox, which holds {', '.join(sorted(files)) or 'nothing'}",
        )
