"""Checkpoints and architectures by the name under which a library or a hub knows them.

`hf:ORGANISATION/NAME`, `timm:NAME.TAG`, `torchvision:NAME.WEIGHTS` and
`robustbench:DATASET/THREAT/NAME` stand for published weights. As a checkpoint, their files are
fetched once into a cache and read like any other; as `--model`, they say what a file of the user's
is built as, and nothing but a repository's JSON is fetched. Libraries build, and load no weights.
"""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from robustkit import models
from robustkit.checkpoint.folder.files import open_files
from robustkit.checkpoint.folder.words import read_words
from robustkit.checkpoint.libraries import (
    Declared,
    check_buildable,
    read_declared,
    robustbench,
    timm,
    torchvision,
)
from robustkit.checkpoint.onnxfile.opening import check_libraries
from robustkit.errors import CheckpointError, FetchError, Unreachable
from robustkit.fetching import (
    Progress,
    Remote,
    Repository,
    commit_in_cache,
    download,
    fetch_repository,
    own_cache,
    torch_cache,
)
from robustkit.files import is_file

KINDS = ("hf", "timm", "torchvision", "robustbench")


class Name(NamedTuple):
    """A name of published weights, taken apart."""

    kind: str
    rest: str

    @property
    def tagged(self) -> tuple[str, str]:
        """Architecture and tag, "" where none is given."""
        name, _, tag = self.rest.partition(".")
        return name, tag

    def __str__(self) -> str:
        return f"{self.kind}:{self.rest}"


@dataclass(frozen=True, slots=True)
class Located:
    """Published weights on this machine."""

    path: Path
    """a file or a folder"""
    declared: Declared | None
    """what their library says of them; None: what the folder says itself"""
    note: str
    sha256: str = ""
    """what its digest begins with, as its publisher states"""
    hint: str = ""
    """where its architecture may be known, if the file does not say"""

    def check(self, sha256: str) -> None:
        """Nothing, if a file that was read is the published one.

        Raises:
            FetchError: it has another digest.
        """
        if not sha256.startswith(self.sha256):
            raise FetchError(
                f"{self.path}: not the published file: its digest begins with "
                f"{sha256[: len(self.sha256)]}, not {self.sha256}; delete it, and it is "
                "downloaded again"
            )


def parse(text: str) -> Name | None:
    """The name that a text is; None where it is a path."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS or not rest or os.path.lexists(text):
        return None
    return Name(kind, rest)


def locate(name: Name, model: str | None = None, progress: Progress | None = None) -> Located:
    """Published weights, fetched where they are not here yet.

    Args:
        name: theirs.
        model: the architecture, where another is asked for than is published with them.
        progress: is told how much of a file has been fetched.

    Raises:
        FetchError: they cannot be fetched; the message says where else they may be put.
        CheckpointError: nothing of that name, or what builds the network is not installed, which
            is known before weights are fetched.
    """
    if model is not None:
        _check_architecture(model, progress)
    match name.kind:
        case "torchvision":
            declared, remote = torchvision.declare(*name.tagged)
            place = torch_cache() / remote.url.rpartition("/")[2]
            return _fetched(remote, place, declared, progress)
        case "robustbench":
            declared = robustbench.declare(name.rest)
            file = f"{declared.architecture}.pt"
            if is_file(beside := Path("models") / file):  # where the package itself puts them
                return Located(beside, declared, f"{declared.model}, found with {beside}")
            remote = robustbench.published(declared)
            return _fetched(remote, own_cache() / "robustbench" / file, declared, progress)
        case "timm":
            return _repository(timm.repository(*name.tagged), f"{name}: ", model, progress)
        case _:
            return _repository(Repository.parse(name.rest), "", model, progress)


def declare(name: Name, progress: Progress | None = None) -> tuple[Declared | None, str]:
    """What a library builds under a name, and where that is said.

    None where it is an architecture without weights, of which nothing more is known.

    Raises:
        FetchError: a repository's JSON cannot be fetched.
        CheckpointError: nothing of that name, or it says too little to build by.
    """
    if name.kind != "hf":
        return _declare_installed(name)
    repository = _whole(name)
    fetched = fetch_repository(repository, only_words=True, progress=progress)
    return _declare_fetched(repository, fetched.path, fetched.commit)


def declare_offline(name: Name, where: str) -> tuple[Declared | None, str]:
    """As `declare`, of what is on this machine: the name stands in a file.

    Args:
        name: as the file has it.
        where: the file, for messages.

    Raises:
        CheckpointError: as `declare`, or a repository's JSON was not fetched before.
    """
    if name.kind != "hf":
        return _declare_installed(name)
    repository = _whole(name)
    commit = commit_in_cache(repository)
    snapshot = repository.folder / "snapshots" / (commit or "")
    if commit is None or not is_file(snapshot / timm.CONFIG):
        raise CheckpointError(
            f"{where}: model {name} is not in the cache, and nothing is downloaded because a "
            f"sidecar says so; if you trust it, pass --model {name}, which fetches its JSON once"
        )
    return _declare_fetched(repository, snapshot, commit)


def _whole(name: Name) -> Repository:
    """The repository of a name: whichever of its files that asks for, its JSON says the network."""
    return replace(Repository.parse(name.rest), file="")


def _declare_installed(name: Name) -> tuple[Declared | None, str]:
    """What an installed library says of a name; it fetches nothing for that."""
    said = _as_declared(name)
    match name.kind:
        case "torchvision" if name.tagged[1]:
            return torchvision.declare(*name.tagged)[0], said
        case "timm" if name.tagged[1]:
            found = read_declared({timm.CONFIG: timm.published(*name.tagged)}, str(name))
            return (None if found is None else replace(found, name=str(name))), said
        case "robustbench":
            return robustbench.declare(name.rest), said
    return None, ""


def _declare_fetched(repository: Repository, folder: Path, commit: str) -> tuple[Declared, str]:
    """What a repository's JSON says, under a name that means the same at any time."""
    with open_files(folder) as files:
        found = read_declared(read_words(files), str(repository))
    if found is None:
        raise CheckpointError(
            f"{repository}: no config.json that names an architecture of transformers or timm"
        )
    found = replace(found, name=f"hf:{repository.id}@{commit}")
    return found, f"{_as_declared(repository)} at commit {commit[:12]}"


def _as_declared(name: object) -> str:
    return f"network and preprocessing as {name} declares them"


def recognise(model: str, sha256: str) -> tuple[Declared | None, str]:
    """What a library says of a file that is one it publishes, and how that is known."""
    name = parse(model)
    if name is None or name.kind != "torchvision":
        return None, ""
    declared = torchvision.recognise(name.rest, sha256)
    return declared, f"its digest is that of {declared.model}" if declared else ""


def _check_architecture(model: str, progress: Progress | None) -> None:
    """Nothing, if what builds an architecture is here.

    Raises:
        InputError: it is not.
    """
    if model.startswith("transformers:"):
        return  # the class that JSON names: held against it when that is here
    name = parse(model)
    declared = None if name is None else declare(name, progress)[0]
    if declared is None:
        models.source(model)
    else:
        check_buildable(declared, model)


def _check_words(where: str, folder: Path) -> None:
    """Nothing, if the network that a repository's JSON declares can be built here.

    Raises:
        CheckpointError: it cannot.
    """
    with open_files(folder) as files:
        declared = read_declared(read_words(files), where)
    if declared is not None:
        check_buildable(declared, where)


def _repository(
    repository: Repository, said: str, model: str | None, progress: Progress | None
) -> Located:
    check = None
    if repository.file.endswith(".onnx"):
        check_libraries(str(repository))
    elif model is None and not repository.file:
        check = partial(_check_words, str(repository))
    fetched = fetch_repository(repository, check=check, progress=progress)
    hint = f"try --model hf:{repository.id}" if repository.file else ""
    note = f"{said}{repository} at commit {fetched.commit[:12]}"
    return Located(fetched.path, None, note, hint=hint)


def _fetched(remote: Remote, place: Path, declared: Declared, progress: Progress | None) -> Located:
    """A file in a cache."""
    if not is_file(place):
        try:
            download(remote, place, progress)
        except FetchError as error:
            kind = Unreachable if isinstance(error, Unreachable) else FetchError
            raise kind(
                f"{error}; or download {remote.url} elsewhere and put it at {place}"
            ) from error
    return Located(place, declared, f"{remote.name}, published at {remote.url}", remote.sha256)
