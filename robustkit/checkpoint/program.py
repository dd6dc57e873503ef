"""TorchScript and torch.export files. They are programs: loading one can run any code.

Nothing here may be called before the user has said, by --trust-program, that the file is trusted.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import torch

from robustkit.checkpoint.adapter import Typed, freeze, replica
from robustkit.checkpoint.checkpoint import Checkpoint
from robustkit.checkpoint.metadata import CheckpointMetadata
from robustkit.checkpoint.normalising import normalised_within
from robustkit.checkpoint.readings import normalisation_in
from robustkit.checkpoint.said import Said, merged
from robustkit.errors import CheckpointError, InputError
from robustkit.files import open_digest

TRIED = (*(2**k for k in range(11)), 10, 20, 25, 50, 100, 200, 250, 500, 1000)
"""batch sizes tried where a traced program turns out to be frozen to an unknown one"""


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program."""

    make: "_Script | _Exported"
    """called with a device, gives the network"""
    num_classes: int | None = None
    input_shape: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    normalises: str = ""
    """the name of a mean among its weights, beside its std"""


class FixedBatch(torch.nn.Module):
    """A program that takes only one batch size, run in pieces of it, the last one padded.

    With `size` None it is run as it is until it fails, and then the size is searched for.
    """

    def __init__(self, program: torch.nn.Module, size: int | None) -> None:
        super().__init__()
        self.program = program
        self.size = size

    def train(self, mode: bool = True) -> "FixedBatch":
        """Note the mode only: exported programs refuse to change theirs."""
        self.training = mode
        return self

    def forward(self, x: torch.Tensor) -> Any:
        """N×C×H×W to what the program returns, for any N."""
        if self.size is not None:
            return self._in_pieces(x, self.size)
        try:
            return self.program(x)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            for size in TRIED:
                try:
                    output = self._in_pieces(x, size)
                except (RuntimeError, ValueError):
                    continue
                self.size = size
                return output
            raise InputError(
                f"the program does not accept images of shape {tuple(x.shape[1:])}, or has "
                f"an unusual fixed batch size: {str(error).strip().splitlines()[-1][:200]}"
            ) from error

    def _in_pieces(self, x: torch.Tensor, size: int) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs = []
        for piece in torch.split(x, size):
            padding = piece[-1:].detach().expand(size - len(piece), *piece.shape[1:])
            output = self.program(torch.cat([piece, padding]))
            parts = _parts(output)
            if not parts or any(part.ndim == 0 or len(part) != size for part in parts):
                raise ValueError("the output does not have one row per image")
            outputs.append([part[: len(piece)] for part in parts])
        whole = tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
        return whole[0] if len(whole) == 1 else whole


def _parts(output: Any) -> list[torch.Tensor]:
    """The tensors that a program returns, the one called logits alone."""
    if isinstance(output, dict):
        output = output.get("logits", list(output.values()))
    parts = list(output) if isinstance(output, tuple | list) else [output]
    return parts if all(isinstance(part, torch.Tensor) for part in parts) else []


def read_program(path: Path, file: BufferedReader, kind: str, said: Said) -> Checkpoint:
    """What is known of an open TorchScript or torch.export file, which must be trusted.

    It is loaded and digested from the one file that was opened, whatever takes its name meanwhile.

    Raises:
        CheckpointError: as `load_torchscript` and `load_export`.
    """
    load = load_torchscript if kind == "TorchScript" else load_export
    loaded, sha256 = load(path, file), open_digest(file)
    base = Checkpoint(
        path=str(path),
        sha256=sha256,
        format=kind,
        container="",
        prefix="",
        weights=sha256,
        input_shape=loaded.input_shape,
        num_classes=loaded.num_classes,
        notes=loaded.notes,
        warnings=loaded.warnings,
        _network=loaded.make,
    )
    known = merged(base, said, CheckpointMetadata())
    return normalised_within(known, loaded.normalises) if loaded.normalises else known


def load_torchscript(path: Path, file: BufferedReader) -> Program:
    """A TorchScript file, opened, which must be trusted; `path` is what messages call it.

    Raises:
        CheckpointError: damaged, or made by an incompatible torch.
    """
    file.seek(0)
    try:
        made = _script(file)
    except Exception as error:  # a program may fail in any way while loading
        raise _failed(path, error) from error
    return Program(made, normalises=_normalises(made.module.program.state_dict()))


def _normalises(state: Mapping[str, torch.Tensor]) -> str:
    return normalisation_in({name: value.numel() for name, value in state.items()})


@dataclass(frozen=True, slots=True)
class _Script:
    """Gives networks of a TorchScript program, also in other processes, which load it again."""

    module: FixedBatch

    def __call__(self, device: str | torch.device) -> torch.nn.Module:
        return replica(self.module).to(device)

    def __reduce__(self) -> tuple[Any, ...]:
        content = BytesIO()
        with _quiet():
            torch.jit.save(self.module.program, content)
        return _script_again, (content.getvalue(),)


def _script_again(content: bytes) -> _Script:
    return _script(BytesIO(content))


def _script(file: BufferedReader | BytesIO) -> _Script:
    with _quiet():
        program = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
    return _Script(FixedBatch(freeze(program).float(), None))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings that it prefers its export: files remain."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        # torch 2.11 warns of a buffer that it made itself
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        yield


def load_export(path: Path, file: BufferedReader) -> Program:
    """A torch.export .pt2 file, opened, which must be trusted; `path` is what messages call it.

    Raises:
        CheckpointError: damaged, or made by an incompatible torch, or not a function of images.
    """
    file.seek(0)
    try:
        with _quiet():
            program = torch.export.load(file)
    except Exception as error:  # as above
        raise _failed(path, error) from error
    images = _images(program, path)
    batch, *rest = images.shape
    size = batch if isinstance(batch, int) else None
    fixed = all(isinstance(n, int) for n in rest)
    notes = (f"a program with the fixed batch size {size}, run in batches of it",) if size else ()
    return Program(
        _Exported(program, size, images.dtype),
        _classes(program),
        (rest[0], rest[1], rest[2]) if fixed else None,
        notes,
        _training_mode(program),
        _normalises(program.state_dict),
    )


def _images(program: torch.export.ExportedProgram, path: Path) -> torch.Tensor:
    """The images that a program was exported with, without numbers: its one input.

    Raises:
        CheckpointError: it takes something else.
    """
    inputs = set(program.graph_signature.user_inputs)
    values: list[Any] = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in inputs
    ]
    if len(values) != 1 or getattr(values[0], "ndim", 0) != 4:
        raise CheckpointError(f"{path}: a program that does not accept a batch of images")
    images: torch.Tensor = values[0]
    if not images.is_floating_point():
        raise CheckpointError(
            f"{path}: a program of {str(images.dtype).removeprefix('torch.')} images, but it is "
            "given pixels in [0, 1]; export it with floating-point images of that range"
        )
    return images


@dataclass(frozen=True, slots=True)
class _Exported:
    """Gives networks of an exported program, as `_Script` does."""

    program: torch.export.ExportedProgram
    size: int | None
    kind: torch.dtype
    """of its images, which the graph insists on"""

    def __call__(self, device: str | torch.device) -> torch.nn.Module:
        """A network of its own on the device, with the devices written into it moved too."""
        from torch.export.passes import move_to_device_pass

        program = self.program
        if torch.device(device).type != "cpu":
            program = move_to_device_pass(program, device)
        module = program.module()
        module.requires_grad_(False)
        return Typed(FixedBatch(module, self.size), self.kind)

    def __reduce__(self) -> tuple[Any, ...]:
        content = BytesIO()
        with _quiet():
            torch.export.save(self.program, content)
        return _exported_again, (content.getvalue(), self.size, self.kind)


def _exported_again(content: bytes, size: int | None, kind: torch.dtype) -> _Exported:
    with _quiet():
        return _Exported(torch.export.load(BytesIO(content)), size, kind)


def _classes(program: torch.export.ExportedProgram) -> int | None:
    output: Any = next(node for node in program.graph.nodes if node.op == "output")
    first: Any = output.args[0]
    if len(first) != 1:  # of several outputs it is not told which are the logits
        return None
    shape: Any = getattr(getattr(first[0], "meta", {}).get("val"), "shape", ())
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None


def _training_mode(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """A warning where dropout or batch statistics are built into the program."""
    for node in program.graph.nodes:
        target = str(node.target)
        if ("dropout" in target and True in node.args) or (
            "batch_norm" in target and len(node.args) > 5 and node.args[5] is True
        ):
            return ("the program was exported in training mode: its outputs are random, or depend "
                "on the rest of the batch; export model.eval() instead",)  # fmt: skip
    return ()


def _failed(path: Path, error: Exception) -> CheckpointError:
    lines = str(error).strip().splitlines() or ["no message"]
    return CheckpointError(f"{path}: the program cannot be loaded: {lines[-1][:200]}")
