"""Whether the files that robustkit has left in a folder are what it wrote. Needs no torch.

Records and blocks of unfinished ones, examples, certifications, audits and their parts, studies,
checkpoints and states of unfinished trainings, published reports. Files of others are passed over.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import pyarrow.parquet as pq

from robustkit.analysis import evidence
from robustkit.auditing.stored import read_audit
from robustkit.checkpoint.header import is_safetensors, read_header, seal_state
from robustkit.errors import RecordError, RobustkitError, first_line
from robustkit.files import file_digest, is_file
from robustkit.record import Blocks, check_folder, read
from robustkit.record import read_header as record_header
from robustkit.record.certification import read_certification
from robustkit.record.examples import examples_state
from robustkit.record.file import UNREADABLE
from robustkit.seals import KEY, SealState, read_sealed, unsealed_bytes
from robustkit.showing import Shown

State = Literal["intact", "no digest", "damaged", "left over"]
SEALED_FOLDERS = ("cells", "rungs", "tests", "costs")
"""of a study, with sealed JSON files"""
AGAIN = "restore it, or remove it, and it is made anew"
PARTS = ("indicators", "certificate", "corruptions", "smoothed", "adaptive")
"""of an audit; their files' names begin so"""


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What was found of a file."""

    path: Path
    kind: str
    """in words: record, block, checkpoint, …"""
    state: State
    """"no digest": of an earlier version, and readable; "left over": of an interrupted write"""
    reason: str = ""
    """what is wrong, and what to do"""


@dataclass(frozen=True, slots=True, repr=False)
class FileCheck(Shown):
    """What was found of the files in several places."""

    places: Mapping[Path, tuple[CheckedFile, ...]]

    @property
    def files(self) -> tuple[CheckedFile, ...]:
        """Of all places."""
        return tuple(one for files in self.places.values() for one in files)

    @property
    def damaged(self) -> tuple[CheckedFile, ...]:
        """The files that are not what robustkit wrote."""
        return tuple(one for one in self.files if one.state == "damaged")

    @property
    def intact(self) -> bool:
        """Whether none is damaged."""
        return not self.damaged


def check_files(place: Path) -> Iterator[CheckedFile]:
    """A file of robustkit's, or all in a folder and those inside it, in the order of their paths.

    Links to folders are not followed.

    Raises:
        RecordError: the folder, or one inside it, cannot be read.
    """
    if is_file(place):
        if (kind := _kind(place)) is not None:
            yield _checked(place, *kind)
        return
    if not os.path.isdir(place):  # noqa: PTH112 - a name too long is none
        there = os.path.lexists(place)
        what = "neither a file nor a folder" if there else "no such file or folder"
        raise RecordError(f"{place}: {what}")
    for parent, folders, names in os.walk(place, onerror=_unreadable):
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            if os.path.exists(path) and not is_file(path):  # noqa: PTH110 - of a forbidden one, too
                continue  # a pipe would be waited for
            if (found := _kind(path)) is not None:
                yield _checked(path, *found)


def _unreadable(error: OSError) -> NoReturn:
    raise RecordError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _checked(path: Path, kind: str, check: Callable[[Path], State]) -> CheckedFile:
    try:
        return CheckedFile(path, kind, check(path))
    except RobustkitError as error:
        return CheckedFile(path, kind, "damaged", str(error))
    # a damaged file makes libraries raise nearly anything, and those after it are to be checked
    except Exception as error:
        return CheckedFile(path, kind, "damaged", f"{path}: damaged ({first_line(error)})")


def _kind(path: Path) -> tuple[str, Callable[[Path], State]] | None:
    """What a file is, and how it is checked; None: not one of ours."""
    name, parent = path.name, path.parent
    if name.startswith(".") and name.endswith((".tmp", ".new")):
        return "temporary file", lambda _: "left over"
    if parent.suffix == ".partial":
        return _kind_in_partial(path)
    if name.endswith(".examples.npz"):
        return "examples", _examples
    if name.startswith("certification-") and path.suffix == ".npz":
        return "certification", _certification
    if path.suffix == ".parquet":
        return _kind_of_parquet(path)
    if name == "robustkit.json":
        return "marker", _marker
    if path.suffix == ".json":
        return _kind_of_json(path)
    if path.suffix == ".safetensors":
        return "checkpoint", _checkpoint
    return None


def _kind_of_json(path: Path) -> tuple[str, Callable[[Path], State]] | None:
    name, parent = path.name, path.parent
    if parent.name in SEALED_FOLDERS and is_file(parent.parent / "study.json"):
        return "study", _result if parent.name == "tests" else _sealed
    kinds: dict[str, tuple[str, Callable[[Path], State]]] = {
        "passes-": ("times of passes", _sealed),
        "searches-": ("times of searches", _sealed),
        "audit.json": ("audit", _audit),
        "manifest.json": ("published report", _manifest),
        **{f"{one}-": ("part of an audit", _part) for one in PARTS},
    }
    if is_file(parent / "study.json"):
        kinds |= dict.fromkeys(("study.json", "plan.json"), ("study", _sealed))
    named = (n for n in kinds if name == n or (n.endswith("-") and name.startswith(n)))
    found = kinds.get(next(named, ""))
    return None if found is None or _of_others(path) else found


def _of_others(path: Path) -> bool:
    """Whether JSON under a name of ours is somebody else's; what cannot be read may be ours."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(found, dict):
        return True
    # web applications and npm have files of these names; ours without its schema still has a seal
    ours = str(found.get("schema")).startswith("robustkit.") or KEY in found
    return path.name in ("audit.json", "manifest.json") and not ours


def _kind_in_partial(path: Path) -> tuple[str, Callable[[Path], State]] | None:
    if path.name == "state.pt":
        return "state of a training", _state
    if path.name.startswith("block-"):
        return "block", _block if path.suffix == ".parquet" else _images
    if path.name == "plan.json":
        return "plan of an evaluation", _plan
    return ("examples", _examples) if path.name.endswith(".examples.npz") else None


def _kind_of_parquet(path: Path) -> tuple[str, Callable[[Path], State]] | None:
    """A record, a report's evidence, or a data set of somebody's."""
    if path.name == evidence.NAME:
        return "evidence", _evidence
    try:
        ours = b"robustkit.header" in (pq.read_schema(path).metadata or {})
    except UNREADABLE:
        # by their names, records cannot be anything else; others may be damaged data sets
        ours = len(path.stem) == 32 and not set(path.stem) - set("0123456789abcdef")
    return ("record", _record) if ours else None


def _record(path: Path) -> State:
    found = read(path)
    return "intact" if record_header(path).sealed and "rows_digest" in found.run else "no digest"


def _block(path: Path) -> State:
    if _blocks(path).find(_number(path)) is None:
        raise RecordError(f"{path}: not as it was written; the evaluation will attack it again")
    return "intact"


def _images(path: Path) -> State:
    blocks = _blocks(path)
    if blocks.find(_number(path)) is None:
        return "left over"  # images come before their rows
    if blocks.images(_number(path)) is None:
        raise RecordError(f"{path}: not as it was written; the evaluation will attack it again")
    return "intact"


def _blocks(path: Path) -> Blocks:
    return Blocks(path.parent.with_suffix(".parquet"))


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("block-"))


def _plan(path: Path) -> State:
    if _blocks(path).kept_plan() is None:
        raise RecordError(f"{path}: not as it was written; it is made anew")
    return "intact"


def _examples(path: Path) -> State:
    if (state := examples_state(path)) == "changed":
        raise RecordError(f"{path}: not as it was written; restore it, or evaluate with --fresh")
    return _told(state)


def _certification(path: Path) -> State:
    read_certification(path, unfinished=True)
    return "intact"


def _marker(path: Path) -> State:
    check_folder(path.parent)
    return "intact"


def _audit(path: Path) -> State:
    """Of an audit, with the page and the model card that say the same."""
    read_audit(path)
    found = read_sealed(path, AGAIN)
    _check_beside(path, found.contents.get("files", {}), "run its robustkit audit again")
    return _told(found.state)


def _sealed(path: Path) -> State:
    return _told(read_sealed(path, AGAIN).state)


def _part(path: Path) -> State:
    found = read_sealed(path, "it is worked out again")
    if found.contents.get("file", path.name) != path.name:
        raise RecordError(f"{path}: holds another part than its name says; it is worked out again")
    return _told(found.state)


def _result(path: Path) -> State:
    """Of an evaluation of a study, with the record that it names."""
    found = read_sealed(path, AGAIN)
    if found.contents.get("status") == "done":
        record = path.parents[1] / "runs" / f"{found.contents['evaluation'][:32]}.parquet"
        if not record.is_file():
            raise RecordError(f"{path}: its record {record} is gone; {AGAIN}")
    return _told(found.state)


def _told(state: SealState) -> State:
    return "no digest" if state == "no digest" else "intact"


def _state(path: Path) -> State:
    content = path.read_bytes()
    try:
        return "no digest" if unsealed_bytes(content) == content else "intact"
    except ValueError as error:
        raise RecordError(f"{path}: {error}; remove it, and the training starts anew") from error


def _checkpoint(path: Path) -> State:
    read_header(path)
    with path.open("rb") as file:
        if not is_safetensors(path, file.read(9), file.seek(0, 2)):
            raise RecordError(f"{path}: no safetensors file; restore it")
        state = seal_state(file)
    if state == "changed":
        raise RecordError(f"{path}: changed since robustkit wrote it; restore it, or train it anew")
    return _told(state)


def _evidence(path: Path) -> State:
    evidence.read_evidence(path)
    return "intact"


def _manifest(path: Path) -> State:
    """A report, with every file that its manifest names."""
    found = json.loads(path.read_bytes())
    if not str(found.get("schema")).startswith("robustkit.report/"):
        raise RecordError(f"{path}: no manifest of a report; build the report again")
    _check_beside(path, found["files"], "build the report again")
    return "intact"


def _check_beside(path: Path, files: Mapping[str, str], advice: str) -> None:
    """Nothing, if the files that are named in `path` are beside it, as they were written."""
    for name, digest in files.items():
        file = path.parent / name
        if not file.is_file():
            raise RecordError(f"{file}: is gone; {advice}")
        if file_digest(file) != digest:
            raise RecordError(f"{file}: changed since it was written; {advice}")
