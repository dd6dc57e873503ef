"""An operation of a graph with what is known of what it takes, and what is made of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from robustkit.checkpoint.onnxfile.graph import Node
from robustkit.checkpoint.onnxfile.opening import Array
from robustkit.checkpoint.onnxfile.sizes import Computed, Inflexible, Known, Shape, Sizes, Value


class Operation(NamedTuple):
    """What is done at a pass."""

    call: Callable[..., Any] | str
    """a function, or a module's name"""
    inputs: tuple[int, ...]
    """which of the operation's inputs it takes"""
    sizes: Mapping[str, Sizes] = {}
    """further arguments by name, for the number of images"""
    grown: Mapping[int, Sizes] = {}
    """inputs, constants of the file, that are expanded first to a shape for the number of images"""


class Call(NamedTuple):
    """An operation of a graph, and what is known of what it takes."""

    node: Node
    values: Sequence[Value | None]
    """of its inputs; None: left out"""
    alone: int | None
    """the number of images that the file is written for; None: any"""
    wrote: Sequence[Shape]
    """shapes of its results at that number, where it is one"""

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.node.attributes.get(name, default)

    def has(self, place: int) -> bool:
        """Whether an input is given."""
        return place < len(self.values) and self.values[place] is not None

    def array(self, place: int) -> Array:
        """An input that is the same for all images and any number of them.

        Raises:
            Inflexible: it depends on how many there are.
            NotImplementedError: it depends on the images.
        """
        value = self.values[place]
        if not isinstance(value, Known):
            raise NotImplementedError("its settings depend on the images")
        if (fixed := value.fixed) is None:
            raise Inflexible("a setting that depends on the number of images")
        return fixed

    def whole(self, place: int, name: str) -> list[int] | None:
        """Whole numbers from an input or, in older versions, an attribute; None: neither."""
        if self.has(place):
            return [int(number) for number in self.array(place).reshape(-1)]
        found = self.get(name)
        return None if found is None else [int(number) for number in found]

    def scalar(self, place: int, name: str) -> float | None:
        """One number, likewise."""
        if self.has(place):
            array = self.array(place)
            if array.size != 1:
                raise NotImplementedError(f"{name} is not a single number")
            return float(array.reshape(()))
        found = self.get(name)
        return None if found is None else float(found)

    def of(self, place: int = 0) -> Computed:
        """An input that depends on the images.

        Raises:
            NotImplementedError: it does not.
        """
        value = self.values[place]
        if not isinstance(value, Computed):
            raise NotImplementedError(f"its input number {place + 1} is a constant")
        return value

    def rank(self, place: int = 0) -> int:
        """Dimensions of an input, that of the images among them.

        Raises:
            Inflexible: the file has none of images.
        """
        if self.of(place).shifted:
            raise Inflexible("an operation along dimensions none of which is the batch")
        return len(self.of(place).shapes[1])

    def axis(self, default: int, place: int = 0) -> int:
        """The attribute `axis` from 0 up."""
        axis = int(self.get("axis", default))
        return axis + self.rank(place) if axis < 0 else axis
