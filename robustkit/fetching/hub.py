"""Repositories of Hugging Face: weights and the JSON that describes them, in the library's cache.

A repository is fetched over plain HTTP, without its library: what is wanted of it is listed with
length and digest, and fetched in the layout that huggingface_hub has, which then finds it, too
(`blobs`, `snapshots/COMMIT`, `refs`). Code is never fetched. What needs a permission is left to the
library's own command, and then found in the cache.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from robustkit.errors import (
    CheckpointError,
    EvaluationFailed,
    FetchError,
    NotPermitted,
    Unreachable,
    cut,
)
from robustkit.fetching.download import (
    Progress,
    Remote,
    check_bytes,
    download,
    fetch_text,
    make_folder,
)
from robustkit.fetching.places import hub_address, hub_cache, own_cache
from robustkit.files import aside, canonical, extended, write_atomic

WORDS = (
    "config.json", "preprocessor_config.json", "processor_config.json", "adapter_config.json",
)  # fmt: skip
"""what is fetched beside weights"""
WHOLE = ("model.safetensors", "pytorch_model.bin")
"""weights as libraries name them, each also as shards with an index, in the order of preference"""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx")
OTHERS = (".pkl", ".pickle", ".tar", ".pt2", ".model")
"""which are read where they are asked for by name"""
NO_WEIGHTS = ("training_args.bin", "optimizer.", "scheduler.", "rng_state", "random_states")
LONGEST_LISTING = 2**24
"""bytes"""
MOST_SHARDS = 500
_PART = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Repository:
    """ORGANISATION/NAME[/FILE][@REVISION]."""

    id: str
    file: str = ""
    """the one that is wanted; "": the weights"""
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What a text names.

        Raises:
            CheckpointError: no repository.
        """
        path, _, revision = text.partition("@")
        parts = path.split("/")
        names = all(_PART.fullmatch(part) and ".." not in part for part in parts)
        words = (revision or "main").split("/")
        if not names or not all(_PART.fullmatch(word) and ".." not in word for word in words):
            raise CheckpointError(
                f"hf:{cut(text)}: expected hf:ORGANISATION/NAME, optionally followed by "
                "/FILE or @REVISION"
            )
        return cls("/".join(parts[:2]), "/".join(parts[2:]), revision or "main")

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf:{'/'.join(filter(None, (self.id, self.file)))}{revision}"

    @property
    def folder(self) -> Path:
        """Its place in the library's cache."""
        return hub_cache() / f"models--{self.id.replace('/', '--')}"


class Fetched(NamedTuple):
    """Where a repository's files are."""

    path: Path
    """the snapshot's folder, or the file that was named"""
    commit: str


class _Entry(NamedTuple):
    """A file of a repository, as it is listed."""

    size: int
    git: str
    sha256: str

    @property
    def blob(self) -> str:
        """What its bytes are called in the cache."""
        return self.sha256 or self.git


Listing = Mapping[str, _Entry]


def fetch_repository(
    repository: Repository,
    *,
    only_words: bool = False,
    check: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """A repository's weights and JSON, or its JSON alone, in the cache; fetched where they are not.

    What was fetched once is not asked for again; a later revision has a name of its own.

    Args:
        repository: which.
        only_words: its JSON alone.
        check: is called with the folder of the JSON before weights are fetched, and may refuse.
        progress: is told how much of a file has been fetched.

    Raises:
        Unreachable: no connection, and not in the cache.
        FetchError: no such repository, or its files are not as stated.
        CheckpointError: it has no weights, or several and nothing that says which.
    """
    what = "words" if only_words else f"file {repository.file}" if repository.file else "weights"
    if (known := _known(repository, what)) is not None:
        return _found(repository, known)
    try:
        return _found(repository, _fetch_anew(repository, what, check, progress))
    except (Unreachable, NotPermitted) as error:
        if (known := _in_librarys_cache(repository, what)) is not None:
            return _found(repository, known)
        first = "hf auth login, then " if isinstance(error, NotPermitted) else ""
        raise type(error)(
            f"{error}; on a machine with a connection: {first}hf download {repository.id}, "
            f"then copy its folder here and name it, or put it at {repository.folder}"
        ) from error


def _fetch_anew(
    repository: Repository,
    what: str,
    check: Callable[[Path], None] | None,
    progress: Progress | None,
) -> str:
    """Fetch what is wanted and is not there; the commit that it is of."""
    commit, listing = _listed(repository)
    words = [name for name in WORDS if name in listing]
    weights: list[str] = []
    if what != "words":
        weights = _named(repository, listing) if repository.file else _weights(repository, listing)
    for name in words:
        _fetch(repository, commit, name, listing[name], progress)
    if check is not None and words:
        check(repository.folder / "snapshots" / commit)
    for name in weights:
        _fetch(repository, commit, name, listing[name], progress)
    if not _COMMIT.fullmatch(repository.revision):
        write_atomic(_reference(repository), commit.encode())
    with suppress(EvaluationFailed):  # without it the list is asked for again, and no more
        write_atomic(_receipt(repository, commit, what), canonical([*words, *weights]).encode())
    return commit


def _found(repository: Repository, commit: str) -> Fetched:
    path = repository.folder / "snapshots" / commit
    return Fetched(path / repository.file if repository.file else path, commit)


# -- what is there already -------------------------------------------------------------------------


def _reference(repository: Repository) -> Path:
    return repository.folder / "refs" / repository.revision


def _receipt(repository: Repository, commit: str, what: str) -> Path:
    """Where it is written down that all of something was fetched."""
    folder = own_cache() / "hub" / repository.id.replace("/", "--") / commit
    return folder / extended(what.replace(" ", "--").replace("/", "--"), ".json")


def commit_in_cache(repository: Repository) -> str | None:
    """The commit that a revision was when it was fetched; None where it was not."""
    if _COMMIT.fullmatch(repository.revision):
        return repository.revision
    try:
        commit = _reference(repository).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _known(repository: Repository, what: str) -> str | None:
    """The commit, if all that is wanted of it was fetched and is there."""
    if (commit := commit_in_cache(repository)) is None:
        return None
    try:
        names = json.loads(_receipt(repository, commit, what).read_bytes())
        snapshot = repository.folder / "snapshots" / commit
        return commit if all((snapshot / name).is_file() for name in names) else None
    except (OSError, ValueError, TypeError):
        return None


def _in_librarys_cache(repository: Repository, what: str) -> str | None:
    """The commit, if the library has fetched weights of it that can be told from others."""
    if (commit := commit_in_cache(repository)) is None:
        return None
    snapshot = repository.folder / "snapshots" / commit
    if what == "words":
        named: Sequence[str] = WORDS[:1]
    elif repository.file:
        named = (repository.file,)
    else:
        named = [name for whole in WHOLE for name in (whole, f"{whole}.index.json")]
    return commit if any((snapshot / name).is_file() for name in named) else None


# -- what the server lists -------------------------------------------------------------------------


def _listed(repository: Repository) -> tuple[str, Listing]:
    """A revision's commit and its files.

    Raises:
        FetchError: no such repository, or an answer that makes no sense.
    """
    revision = quote(repository.revision, safe="")
    url = f"{hub_address()}/api/models/{repository.id}/revision/{revision}?blobs=true"
    text = fetch_text(url, str(repository), LONGEST_LISTING)
    try:
        said = json.loads(text)
        commit, listing = said["sha"], dict(_entries(said["siblings"]))
        if not _COMMIT.fullmatch(commit):
            raise ValueError("no commit")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FetchError(f"{repository}: the server's list of files is invalid") from error
    return commit, listing


def _entries(siblings: Any) -> Iterator[tuple[str, _Entry]]:
    for sibling in siblings:
        name, size, git = sibling["rfilename"], sibling["size"], sibling["blobId"]
        sha256 = (sibling.get("lfs") or {}).get("sha256") or ""
        if not all(_PART.fullmatch(part) and ".." not in part for part in name.split("/")):
            continue  # nothing that is wanted is called so
        if type(size) is not int or size < 0 or not _COMMIT.fullmatch(git):
            raise ValueError(name)
        if sha256 and not _SHA256.fullmatch(sha256):
            raise ValueError(name)
        yield name, _Entry(size, git, sha256)


def _named(repository: Repository, listing: Listing) -> list[str]:
    """The file that is asked for, and what an ONNX file keeps beside itself.

    Raises:
        CheckpointError: no file of weights.
        FetchError: there is none of that name.
    """
    if not (name := repository.file).endswith((*WEIGHTS, *OTHERS)):
        raise CheckpointError(f"{repository}: only weights are downloaded: {', '.join(WEIGHTS)}")
    if name not in listing:
        raise FetchError(f"{repository}: the repository has no file {cut(name)}")
    return [name, *(n for n in (f"{name}_data", f"{name}.data") if n in listing)]


def _weights(repository: Repository, listing: Listing) -> list[str]:
    """The files of the weights, as libraries would choose them.

    Raises:
        CheckpointError: none, or several and nothing that says which.
    """
    for whole in WHOLE:
        if whole in listing:
            return [whole]
        stem, _, suffix = whole.partition(".")
        shard = re.compile(rf"{stem}-\d{{5}}-of-\d{{5}}\.{suffix}")
        shards = [name for name in listing if shard.fullmatch(name)]
        if (index := f"{whole}.index.json") in listing and 0 < len(shards) <= MOST_SHARDS:
            return [index, *shards]
    found = [n for n in listing if n.endswith(WEIGHTS) and not n.startswith(NO_WEIGHTS)]
    if len(found) == 1 and "/" not in found[0] and not found[0].endswith(".onnx"):
        return found
    if not found:
        raise CheckpointError(
            f"{repository}: contains no weights that can be read; its files are "
            f"{', '.join(map(cut, [*listing][:6]))}{', …' if len(listing) > 6 else ''}"
        )
    raise CheckpointError(
        f"{repository}: no file has a usual name for weights; name the right one: "
        f"{', '.join(f'hf:{repository.id}/{cut(name)}' for name in found[:4])}"
        f"{f' … ({len(found)} in all)' if len(found) > 4 else ''}"
    )


# -- and what is fetched ---------------------------------------------------------------------------


def _fetch(
    repository: Repository, commit: str, name: str, entry: _Entry, progress: Progress | None
) -> None:
    """A file, as the library's cache has it: bytes by digest, and a link to them by name."""
    remote = Remote(
        url=f"{hub_address()}/{repository.id}/resolve/{commit}/{quote(name)}",
        name=f"hf:{repository.id}/{name}",
        size=entry.size,
        sha256=entry.sha256,
        git="" if entry.sha256 else entry.git,
    )
    blob = repository.folder / "blobs" / entry.blob
    place = repository.folder / "snapshots" / commit / name
    if blob.is_file():
        check_bytes(remote, blob)
    else:
        download(remote, blob, progress)
    make_folder(place.parent)
    _link(blob, place)


def _link(blob: Path, place: Path) -> None:
    """A relative link, or a copy under a second name where links are not allowed."""
    link = aside(place, "tmp")
    try:
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(os.path.relpath(blob, place.parent))
        except OSError:
            os.link(blob, link)
        link.replace(place)
    except OSError as error:
        raise FetchError(f"{place}: cannot be made ({error.strerror or error})") from error
