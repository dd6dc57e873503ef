"""Checkpoints that are folders, told from other folders by what stands in them."""

from contextlib import suppress
from pathlib import Path

from robustkit.errors import CheckpointError
from robustkit.files import open_digest


def folder_digest(path: Path) -> str | None:
    """SHA-256 of a folder's network, as an evaluation records it; None where it holds none.

    What several files of weights hold is not guessed, nor is anything built.
    """
    # here, so that records of single files do not wait for it
    from robustkit.checkpoint.folder.opening import open_folder, open_only_graph

    with suppress(CheckpointError):
        with open_only_graph(path) as graph:
            if graph is not None:
                return open_digest(graph[1])
        with open_folder(path) as folder:
            return folder.sha256
    return None
