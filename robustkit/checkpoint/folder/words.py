"""The JSON files of a folder as plain data: whatever they say, reading them costs little."""

import json
from collections.abc import Iterable
from typing import Any

from robustkit.checkpoint.folder.files import FolderFiles
from robustkit.errors import CheckpointError

KNOWN = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "model_index.json",
    "adapter_config.json",
)
"""files that say what the weights are: a damaged one is refused"""
TEXT = ("tokenizer", "vocab", "added_tokens", "special_tokens", "merges", "trainer_state")
"""beginnings of the names of files that say nothing of a network for images"""
INDEX = ".index.json"
MOST = 32
"""files"""
LONGEST = 2**23
"""bytes of one; a configuration with the 21,841 names of ImageNet-21k has two million"""
DEEPEST = 40
"""levels of lists and tables"""
DIGITS = 40
"""of a number"""


def read_words(files: FolderFiles) -> dict[str, dict[str, Any]]:
    """The tables in a folder's JSON files, by file name.

    Files of other names than the `KNOWN` are left out where they are no tables, or too long.

    Raises:
        CheckpointError: one of the known is damaged, nested too deeply or too long.
    """
    others = [name for name in files.names if name.endswith(".json") and name not in KNOWN]
    others = [name for name in others if not name.endswith(INDEX) and not name.startswith(TEXT)]
    words = {name: read_table(files, name) for name in KNOWN if name in files.names}
    for name in others[:MOST]:
        try:
            words[name] = read_table(files, name)
        except CheckpointError:
            continue
    return words


def read_table(files: FolderFiles, name: str) -> dict[str, Any]:
    """The table in a JSON file.

    Raises:
        CheckpointError: it is none, nested too deeply, too long, or has a name twice.
    """
    where = f"{files.path}: {name}"
    if files.size(name) > LONGEST:
        raise CheckpointError(f"{where}: JSON of more than {LONGEST:,} bytes; refused as damaged")
    try:
        table = json.loads(
            files.open(name).read(LONGEST),
            object_pairs_hook=_named_once,
            parse_int=_integer,
            parse_constant=float,
        )
        _check_depth(table)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise CheckpointError(f"{where}: invalid JSON: {reason}") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{where}: expected a JSON object")
    return table


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a duplicate key")
    return table


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number with {len(text)} digits")
    return int(text)


def _check_depth(table: object) -> None:
    level = [table]
    for _ in range(DEEPEST):
        level = [value for outer in level for value in _inside(outer)]
        if not level:
            return
    raise RecursionError


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
