"""An object on its way to other processes, its large arrays in one file that all of them map.

Arrays go out of band (PEP 574): a machine holds them once, however many workers it has. What is
pickled are robustkit's own objects; the file holds numbers alone, and nothing in it is ever run.
"""

import mmap
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit.errors import InputError, first_line
from robustkit.files import writing

SCRIPT = b"__main__"
"""the module of what is defined in a script or a notebook"""
PAGE = 64
"""bytes at whose multiples an array begins, as in memory"""


@dataclass(frozen=True, slots=True)
class Parcel:
    """An object without its arrays, and where these stand."""

    content: bytes
    file: Path
    spans: tuple[tuple[int, int], ...]
    """first byte and length of each array"""

    @property
    def of_script(self) -> bool:
        """Whether a class in it may be defined in the script that runs."""
        return SCRIPT in self.content

    def unpack(self) -> Any:
        """The object. Its arrays are the file's pages; what is written to them stays private."""
        if not any(length for _, length in self.spans):
            return pickle.loads(self.content, buffers=[b"" for _ in self.spans])
        with self.file.open("rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        parts = [mapped[first : first + length] for first, length in self.spans]
        return pickle.loads(self.content, buffers=parts)


def pack(content: Any, file: Path) -> Parcel:
    """An object as a parcel, whose arrays are written to a file.

    Raises:
        InputError: a part of it exists in this process alone.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        pickled = pickle.dumps(content, 5, buffer_callback=buffers.append)
    except Exception as error:  # pickle, and every class, refuses in its own way
        raise InputError(
            f"cannot be handed to other processes ({first_line(error)}); take one device, or hand "
            "over a checkpoint"
        ) from error
    if SCRIPT in pickled and not hasattr(sys.modules["__main__"], "__file__"):
        raise InputError(
            "a class of the network is defined in a notebook or at a prompt, where no other "
            "process finds it; write it into a module, or take one device"
        )
    spans, place = [], 0
    with writing(file) as out:
        for buffer in buffers:
            raw = buffer.raw()
            out.write(bytes(-place % PAGE))
            place += -place % PAGE
            out.write(raw)
            spans.append((place, raw.nbytes))
            place += raw.nbytes
    return Parcel(pickled, file, tuple(spans))


def size_of(content: Any) -> int:
    """Bytes that an object takes on its way, about; 0 where only others can pickle it."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        pickled = len(pickle.dumps(content, 5, buffer_callback=buffers.append))
    except Exception:
        return 0
    return pickled + sum(buffer.raw().nbytes for buffer in buffers)
