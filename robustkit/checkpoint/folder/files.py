"""The files of a folder: each opened once, and none that lies outside it.

A link is followed where it leads to a place in the folder, or to the `blobs` of the same repository
in Hugging Face's cache, whose `snapshots/REVISION` holds nothing but such links.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BufferedReader
from itertools import islice
from pathlib import Path, PurePosixPath

from robustkit.errors import CheckpointError
from robustkit.files import canonical, open_digest

MOST_ENTRIES = 10_000
"""files and folders that are listed"""
MOST_FILES = 256
"""that are open at once"""


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """The files of a folder, as long as it is open."""

    path: Path
    names: tuple[str, ...]
    """of its files, sorted; links and pipes are among them"""
    folders: tuple[str, ...]
    _real: Path
    """the folder that was named, of which this one is a part, without links"""
    _below: PurePosixPath
    """this one, seen from there"""
    _closing: ExitStack
    _opened: dict[str, BufferedReader]

    def at(self, folder: str) -> "FolderFiles":
        """A folder inside this one.

        Raises:
            CheckpointError: it lies outside, cannot be listed, or holds too much.
        """
        self._resolved(folder)
        names, folders = _listed(path := self.path / folder)
        below = self._below / folder
        return replace(self, path=path, names=names, folders=folders, _below=below)

    def open(self, name: str) -> BufferedReader:
        """A file by its name in the folder, at its start; the same one each time.

        Raises:
            CheckpointError: there is none, it lies outside, it is no plain file, or one too many.
        """
        if (key := str(self._below / name)) not in self._opened:
            if len(self._opened) >= MOST_FILES:
                raise CheckpointError(f"{self.path}: more than {MOST_FILES} files to read")
            self._opened[key] = self._closing.enter_context(self._open(name))
        file = self._opened[key]
        file.seek(0)
        return file

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return os.fstat(self.open(name).fileno()).st_size

    def digest(self) -> str:
        """SHA-256 over the files that were opened, by their names."""
        digests = {name: open_digest(file) for name, file in sorted(self._opened.items())}
        return sha256(canonical(digests).encode()).hexdigest()

    def _open(self, name: str) -> BufferedReader:
        real = self._resolved(name)
        try:
            # a pipe is not waited for, and what has become a link meanwhile not followed
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(real, flags | getattr(os, "O_BINARY", 0))
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path}: the file {name} is missing") from error
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(f"{self.path}: {name} cannot be read: {reason}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise CheckpointError(f"{self.path}: {name} is not a regular file; refused")
        return os.fdopen(descriptor, "rb")

    def _resolved(self, name: str) -> Path:
        """Where a name leads, all links followed.

        Raises:
            CheckpointError: outside.
        """
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise CheckpointError(f"{self.path}: {name[:200]} is outside the folder; refused")
        real = Path(os.path.realpath(self._real.joinpath(self._below, *parts)))
        if not any(real.is_relative_to(place) for place in self._inside()):
            raise CheckpointError(
                f"{self.path}: {name} is a link out of the folder, which is not followed; "
                "put the file itself there"
            )
        return real

    def _inside(self) -> Iterator[Path]:
        """Where the folder's files may lie."""
        yield self._real
        for parent in (self._real, *self._real.parents):
            if parent.parent.name == "snapshots":
                yield parent.parents[1] / "blobs"


@contextmanager
def open_files(path: Path) -> Iterator[FolderFiles]:
    """The files of a folder, closed at the end.

    Raises:
        CheckpointError: it cannot be listed, or holds too much.
    """
    names, folders = _listed(path)
    real = Path(os.path.realpath(path))
    with ExitStack() as closing:
        yield FolderFiles(path, names, folders, real, PurePosixPath(), closing, {})


def _listed(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a folder's files and of its folders, sorted.

    Raises:
        CheckpointError: it cannot be listed, or holds too much.
    """
    try:
        with os.scandir(path) as entries:
            found = list(islice(entries, MOST_ENTRIES + 1))
            folders = {entry.name for entry in found if entry.is_dir()}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(found) > MOST_ENTRIES:
        raise CheckpointError(
            f"{path}: a folder of more than {MOST_ENTRIES:,} files; name the checkpoint itself"
        )
    names = {entry.name for entry in found} - folders
    return tuple(sorted(names)), tuple(sorted(folders))
