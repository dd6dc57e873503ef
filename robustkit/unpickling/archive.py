"""The records of a zip in torch's layout, read from one open file and checked on the way.

Source: caffe2/serialize/inline_container.cc for the layout.
"""

import struct
import zipfile
import zlib
from io import BufferedReader

from robustkit.errors import BadFile
from robustkit.unpickling.objects import printable

LONGEST_DIRECTORY = 5 * 2**20
"""bytes; the directory of 50,000 storages has less"""


class _Bounded:
    """A file of which zipfile reads no more at once than a directory takes."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """As a file's own."""
        if size > LONGEST_DIRECTORY:
            raise BadFile(f"a zip whose directory takes {size:.1e} bytes; refused as damaged")
        return self._file.read(size)


def read_directory(file: BufferedReader) -> list[zipfile.ZipInfo]:
    """The entries of a zip that are no folders.

    Raises:
        BadFile: truncated or damaged, or a directory of absurd length.
    """
    try:
        with zipfile.ZipFile(_Bounded(file)) as archive:
            return [entry for entry in archive.infolist() if not entry.is_dir()]
    except BadFile:
        raise
    # struct, text decoding and dates raise nearly anything on broken bytes
    except Exception as error:
        reason = printable(str(error).strip()) or type(error).__name__
        raise BadFile(f"truncated or damaged: {reason[:120]}; download it again") from error


class ArchiveRecords:
    """The records of a zip that torch wrote, by name, as long as its file is open."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        entries = read_directory(file)
        self._check(entries)
        roots = [e.filename[: -len("data.pkl")] for e in entries if e.filename.endswith("data.pkl")]
        if not roots:
            names = ", ".join(printable(entry.filename[:80]) for entry in entries[:3])
            raise BadFile(
                f"a zip without torch's data.pkl, but with {names or 'nothing'}; "
                "if a checkpoint is packed inside, unpack it first"
            )
        prefix = min(roots, key=len)
        self._entries = {
            entry.filename[len(prefix) :]: entry
            for entry in entries
            if entry.filename.startswith(prefix)
        }
        if "byteorder" in self._entries and self.read("byteorder") != b"little":
            raise BadFile("saved on a big-endian machine; save it again on a little-endian one")

    def _check(self, entries: list[zipfile.ZipInfo]) -> None:
        # both would be a way to make a small file fill the memory
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise BadFile(
                "a compressed zip, which torch never writes; unpack it and name the checkpoint "
                "inside"
            )
        if sum(entry.file_size for entry in entries) > self._size:
            raise BadFile("a zip that claims more data than the file has; refused as damaged")
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            raise BadFile("a zip with two records of one name; refused as damaged")

    def read(self, name: str) -> bytearray:
        """A record's bytes, each time anew.

        Raises:
            BadFile: it is missing, cut off or changed.
        """
        shown = repr(name[:80])
        if (entry := self._entries.get(name)) is None:
            raise BadFile(f"damaged: the record {shown} is missing")
        # not archive.read(), which copies more than once. The local header's own lengths count,
        # since torch pads it for alignment
        local = self._at(entry.header_offset, 30)
        if len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise BadFile(f"damaged: no record {shown} at its offset")
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
        content = self._at(start, entry.file_size)
        if len(content) < entry.file_size:
            raise BadFile(f"truncated: the record {shown} is incomplete")
        # torch can be told to write no checksums, and then they are 0
        if entry.CRC not in (0, zlib.crc32(content)):
            raise BadFile(f"damaged: the checksum of {shown} is wrong; download it again")
        return content

    def _at(self, start: int, size: int) -> bytearray:
        """As many bytes of the file as there are; nothing outside it is asked for."""
        if not 0 <= start <= self._size or start + size > self._size:
            return bytearray()
        self._file.seek(start)
        content = bytearray(size)
        found = self._file.readinto(content)
        return content if found == size else content[:found]
