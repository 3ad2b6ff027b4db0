"""An installation with the embedded grid, made once and copied, and small documents to hand in."""

from __future__ import annotations

import shutil
from pathlib import Path

from gridapp import session

REQUEST = """
name = "small"
group = "production"
lfn_area = "/store/mc"

[[step]]
name = "generate"
command = ["python", "make.py"]
sandbox = ["make.py"]
events = 40
events_per_job = 10
limits = { wall_s = 600 }
output = { name = "out.txt", dataset = "/Small/Test-v1/GEN" }
"""


def make(directory: Path) -> Path:
    """A new installation with the embedded grid; the database is closed."""
    session.start(directory, None).installation.close()
    return directory


def copy(template: Path, directory: Path) -> Path:
    """A copy of an installation; its storage elements stay those of the template."""
    shutil.copytree(template, directory)
    directory.chmod(0o700)
    return directory


def write_request(directory: Path, text: str = REQUEST, name: str = "request.toml") -> Path:
    """The document and its sandbox in a directory; the document's path."""
    (directory / "make.py").write_text("print('made')\n")
    path = directory / name
    path.write_text(text)
    return path
