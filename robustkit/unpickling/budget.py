"""What reading one file may cost, whatever it asks for.

A pickle may refer to one part of itself any number of times, so that a walk over some hundred bytes
need not end in a lifetime, and numbers in it become sizes, shapes and names. Every part of a reader
draws on the same `Budget`, from the first opcode to the last reading of the names. Its limits lie
far above what training code writes, and an ordinary processor reaches them within seconds.
"""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, NoReturn

from robustkit.errors import BadFile
from robustkit.unpickling.objects import printable

LONGEST_NAME = 1000
"""characters"""
ADVICE = "if the file is genuine, save only the weights: torch.save(model.state_dict(), PATH)"


@dataclass(slots=True)
class Budget:
    """What is left to spend on a file."""

    visits: int = 3_000_000
    """steps: opcodes, and items that are moved, looked at or renamed"""
    copied: int = 2**26
    """bytes, of texts and names above all"""
    leaves: int = 50_000
    """tensors under a name"""
    numbers: int = 2**24
    """in all tensors together, which may share what they hold or repeat it without a byte"""
    sparse_keys: int = 40_000
    """entries under keys that a file could choose to collide in a hash table"""

    @classmethod
    def of(cls, size: int) -> "Budget":
        """The budget of a file of `size` bytes."""
        return cls(copied=2**26 + 4 * size, numbers=2**24 + 8 * size)

    def visit(self, steps: int = 1) -> None:
        """Pay for steps.

        Raises:
            BadFile: none are left; so do the others.
        """
        self.visits -= steps
        if self.visits < 0:
            _refuse("more steps to read than weights need")

    def copy(self, size: int) -> None:
        """Pay for bytes that are copied, or characters."""
        self.copied -= size
        if self.copied < 0:
            _refuse("to copy its contents several times over")

    def leaf(self, numbers: int) -> None:
        """Pay for a tensor under a name, and for the numbers that it claims to hold.

        Views that overlap and expanded tensors claim any number of them without a byte behind.
        """
        self.leaves -= 1
        if self.leaves < 0:
            _refuse("more tensors than any network has")
        self.numbers -= numbers
        if self.numbers < 0:
            _refuse("tensors with far more numbers than the file holds")

    def pay(self, arguments: Sequence[object]) -> None:
        """Pay for a call that takes no longer than its arguments are long."""
        self.visit(len(arguments))
        for value in arguments:
            if isinstance(value, str | bytes):
                self.copy(len(value))
            elif isinstance(value, Sized):
                self.visit(len(value))

    def admits(self, key: object, entries: Mapping[Any, object]) -> bool:
        """Whether a key can be hashed in a bounded time, and pays for it.

        Texts and bytes are hashed with a secret of this process. Numbers are not: a file can choose
        ones that collide, and an insertion then takes as long as the dictionary is. Those that
        count up from 0 cannot.
        """
        if isinstance(key, str | bytes) or (type(key) is int and 0 <= key <= len(entries)):
            return True
        # a tuple's hash is not cached: nested ones that share their parts take exponential time
        parts = key if isinstance(key, tuple) else (key,)
        self.visit(len(parts))
        if not all(isinstance(part, str | int | float | bytes | None) for part in parts):
            return False
        if sum(map(_length, parts)) > LONGEST_NAME:
            _refuse(f"a name of more than {LONGEST_NAME} characters")
        self.sparse_keys -= len(parts) + 1
        if self.sparse_keys < 0:
            _refuse("dictionaries with too many numbers as keys")
        return True

    def name(self, key: object, prefix: str = "") -> str:
        """A key as text, printable, behind a prefix."""
        length = len(prefix) + sum(map(_length, key if isinstance(key, tuple) else (key,)))
        self.copy(length)
        if length > LONGEST_NAME:
            _refuse(f"a name of more than {LONGEST_NAME} characters")
        return prefix + printable(str(key))


def _length(part: object) -> int:
    """About as many characters as a plain key has as text, known without writing it."""
    if isinstance(part, int):
        return part.bit_length() // 3
    return len(part) if isinstance(part, str | bytes) else 0


def _refuse(what: str) -> NoReturn:
    raise BadFile(f"the file asks for {what}; {ADVICE}")
