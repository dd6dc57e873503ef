"""A look at an ONNX file's bytes before a parser makes objects of them.

Two bytes can stand for an object of a hundred, and messages nest: fields are counted, and levels,
first. Source: Protocol Buffers' documentation, "Encoding".
"""

from typing import Any

from robustkit.errors import BadFile

MOST_FIELDS = 2_000_000
"""in all messages together; a network of 1,000 operations has 50,000"""
DEEPEST = 40
"""messages within messages"""
_FIXED = {1: 8, 5: 4}
"""bytes of a value by its wire type, where that tells"""


def check_wire(data: memoryview, descriptor: Any) -> None:
    """Nothing, if the bytes are a message of bounded size and depth.

    Args:
        data: the file.
        descriptor: protobuf's of the message.

    Raises:
        BadFile: cut off, no such message, or more than an honest file holds.
    """
    count, waiting = 0, [(0, len(data), descriptor, 0)]
    while waiting:
        at, end, message, depth = waiting.pop()
        if depth > DEEPEST:
            raise BadFile("an ONNX graph nested too deeply; refused as damaged")
        kinds = message.fields_by_number
        while at < end:
            count += 1
            if count > MOST_FIELDS:
                raise BadFile(f"an ONNX graph of more than {MOST_FIELDS:,} entries; refused")
            key, at = _varint(data, at, end)
            kind = key & 7
            if kind == 0:
                _, at = _varint(data, at, end)
            elif kind in _FIXED:
                at += _FIXED[kind]
            elif kind == 2:
                size, at = _varint(data, at, end)
                inner = kinds.get(key >> 3)
                if inner is not None and inner.message_type is not None:
                    waiting.append((at, at + size, inner.message_type, depth + 1))
                at += size
            else:
                raise BadFile("not an ONNX file, or a damaged one")
            if at > end:
                raise BadFile("a truncated ONNX file; download or save it again")


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise BadFile("a truncated ONNX file; download or save it again")
