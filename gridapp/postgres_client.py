"""PostgreSQL's own programs for dumps: found, called without a secret in their arguments, and understood."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sqlalchemy import URL, Connection, Executable

from gridcore.errors import GridError, UsageError

#: Where Debian and its kin keep the programs of each version.
DEBIAN = Path("/usr/lib/postgresql")
BEGIN = "BEGIN;\nSET LOCAL lock_timeout = '60s';\n"


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, the newest where there are several. Raises UsageError."""
    if found := shutil.which(name):
        return found
    places = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    if not places:
        raise UsageError(
            f"the program {name} is not installed",
            hint="apt-get install postgresql-client, of the server's version or newer",
        )
    return str(places[-1])


def connection(url: URL) -> tuple[str, dict[str, str]]:
    """(connection string without the password, environment with it) for PostgreSQL's programs."""
    from psycopg.conninfo import make_conninfo

    _, known = url.get_dialect()().create_connect_args(url)
    password = known.pop("password", None)
    environment = {**os.environ, "LC_ALL": "C"}
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    return make_conninfo(**known), environment


def dump(url: URL, target: Path, snapshot: str) -> None:
    """Write the whole database, as an exported snapshot sees it, into a new file of mode 0600.

    Raises UsageError where a program is missing, GridError where it fails.
    """
    where, environment = connection(url)
    command = [program("pg_dump"), "--format=custom", "--no-owner", "--no-privileges"]
    command += [f"--snapshot={snapshot}", f"--file={target}", f"--dbname={where}"]
    done = subprocess.run(
        command, env=environment, umask=0o077, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        raise _failed("pg_dump", done.stderr)


def literally(conn: Connection, statement: Executable, binds: Mapping[str, Any]) -> str:
    """The statement as text, its binds filled in, for a script."""
    from psycopg import ClientCursor

    compiled = statement.compile(dialect=conn.dialect)  # type: ignore[attr-defined]
    driver: Any = conn.connection.driver_connection
    return ClientCursor(driver).mogrify(str(compiled), compiled.construct_params(dict(binds)))


def restore(url: URL, payload: Path, before: Sequence[str], after: Sequence[str]) -> None:
    """Run `before`, what the dump holds, and `after` as one transaction: all of it or nothing.

    Raises UsageError where a program is missing, GridError where one fails.
    """
    where, environment = connection(url)
    script = [program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(payload)]
    command = [program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", f"--dbname={where}"]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
        ) as psql:
            assert psql.stdin is not None
            fed = _feed(psql.stdin, script, before, after, told)
        if psql.returncode:
            raise _failed("psql", _read(said))
        if not fed:
            raise _failed("pg_restore", _read(told))


def _feed(
    pipe: IO[bytes], script: Sequence[str], before: Sequence[str], after: Sequence[str], told: IO[bytes]
) -> bool:
    """Whether everything went into the pipe, the commit last: what ends earlier is rolled back."""
    try:
        pipe.write((BEGIN + "".join(f"{one};\n" for one in before)).encode())
        pipe.flush()
        if subprocess.run(script, stdin=subprocess.DEVNULL, stdout=pipe, stderr=told, check=False).returncode:
            return False
        # The dump has emptied the search path.
        pipe.write("".join(f"{one};\n" for one in ("RESET search_path", *after, "COMMIT")).encode())
        pipe.close()
    except BrokenPipeError:
        return False
    return True


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _failed(name: str, stderr: bytes) -> GridError:
    lines = stderr.decode(errors="replace").strip().splitlines() or ["no message"]
    hint = None
    if "version mismatch" in " ".join(lines) or "unsupported version" in " ".join(lines):
        hint = "apt-get install postgresql-client, of the server's version or newer"
    return GridError(f"{name} failed: {lines[0]}", hint=hint or "nothing was changed")
