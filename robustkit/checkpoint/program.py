"""TorchScript and torch.export files. They are programs: loading one can run any code.

Nothing here may be called before the user has said, by --trust-program, that the file is trusted.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch

from robustkit.checkpoint.adapter import Typed, freeze, replica
from robustkit.checkpoint.checkpoint import Checkpoint
from robustkit.checkpoint.metadata import CheckpointMetadata
from robustkit.checkpoint.normalising import normalised_within, numbers_in
from robustkit.checkpoint.readings import Own, normalisation_in
from robustkit.checkpoint.said import Said, merged
from robustkit.errors import CheckpointError, InputError
from robustkit.files import open_digest

TRIED = (*(2**k for k in range(11)), 10, 20, 25, 50, 100, 200, 250, 500, 1000)
"""batch sizes tried where a traced program turns out to be frozen to an unknown one"""
ANY = 2
"""torch.export says so of a batch of any size, which one image is for most programs"""
UNFIT = (RuntimeError, ValueError, AssertionError)
"""what a program raises of a batch that it does not take; an exported one's guards assert"""
SCALARS = {5: torch.float16, 7: torch.float64, 15: torch.bfloat16}
"""types as TorchScript numbers them, but for float32"""
WORDS = {torch.float16: "half precision", torch.float64: "double precision"}


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program."""

    make: "_Script | _Exported"
    """called with a device, gives the network"""
    num_classes: int | None = None
    input_shape: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    normalises: Own | None = None
    """a mean among its weights, beside its std"""


class Batches(NamedTuple):
    """The batches that a program takes."""

    least: int
    most: int | None
    """None: any number above"""

    @property
    def note(self) -> str:
        """What is told of how it is run."""
        if self.least == self.most:
            return f"a program with the fixed batch size {self.most}, run in batches of it"
        if self.most is None:
            return f"a program for batches of at least {self.least}: smaller ones are padded"
        least = f"{self.least} to " if self.least > 1 else "at most "
        return f"a program for batches of {least}{self.most}, run in such batches"


class FixedBatch(torch.nn.Module):
    """A program that takes only some batch sizes, run in pieces of them, the last one padded.

    With `batches` None it is run as it is until it fails, and then one size is searched for.
    """

    def __init__(self, program: torch.nn.Module, batches: Batches | None) -> None:
        super().__init__()
        self.program = program
        self.batches = batches

    def train(self, mode: bool = True) -> "FixedBatch":
        """Note the mode only: exported programs refuse to change theirs."""
        self.training = mode
        return self

    def forward(self, x: torch.Tensor) -> Any:
        """N×C×H×W to what the program returns, for any N."""
        if self.batches is not None:
            return self._in_pieces(x, self.batches)
        try:
            return self.program(x)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            for size in TRIED:
                batches = Batches(size, size)
                try:
                    output = self._in_pieces(x, batches)
                except UNFIT:
                    continue
                self.batches = batches
                return output
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"the program does not accept images of shape {tuple(x.shape[1:])}, or has "
                f"an unusual fixed batch size: {said[-1][:200]}"
            ) from error

    def _in_pieces(
        self, x: torch.Tensor, batches: Batches
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs = []
        for piece in torch.split(x, batches.most or len(x)):
            missing = max(0, batches.least - len(piece))
            padding = piece[-1:].detach().expand(missing, *piece.shape[1:])
            output = self.program(torch.cat([piece, padding]) if missing else piece)
            parts = _parts(output)
            size = len(piece) + missing
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
    return Program(made, notes=made.notes, normalises=_normalises(made.module.program.state_dict()))


def _normalises(state: Mapping[str, torch.Tensor]) -> Own | None:
    sizes = {name: value.numel() for name, value in state.items()}
    return normalisation_in(sizes, lambda name: numbers_in(state[name]))


@dataclass(frozen=True, slots=True)
class _Script:
    """Gives networks of a TorchScript program, also in other processes, which load it again."""

    module: FixedBatch
    kept: torch.dtype | None
    """the type of its weights, where it is not float32"""
    notes: tuple[str, ...] = ()

    def __call__(self, device: str | torch.device) -> torch.nn.Module:
        network = replica(self.module).to(device)
        return network if self.kept is None else Casting(network, self.kept)

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
    kinds = {w.dtype: None for w in program.state_dict().values() if w.is_floating_point()}
    kinds.pop(torch.float32, None)
    named = _casts(program) if kinds else set()
    for kind in kinds:
        if kind in named:  # it may cast what meets weights of this type, which stay so
            return _Script(FixedBatch(freeze(program), None), kind)
    words = (WORDS.get(kind, str(kind).removeprefix("torch.")) for kind in kinds)
    notes = tuple(f"{word} converted to float32" for word in words)
    return _Script(FixedBatch(freeze(program).float(), None), None, notes)


class Casting(Typed):
    """A program that casts to the type of its weights: the images first, or only later values."""

    def __init__(self, network: torch.nn.Module, kind: torch.dtype) -> None:
        super().__init__(network, kind)
        self.given: torch.dtype | None = None
        """what it is given: float32, unless it fails on that; None: not yet known"""

    def forward(self, x: torch.Tensor) -> object:
        """As the network."""
        if self.given is not None:
            return self.network(x.to(self.given))
        try:
            output: object = self.network(x)
            self.given = torch.float32
        except InputError as error:
            try:
                output = self.network(x.to(self.kind))
            except InputError:
                raise error from error.__cause__
            self.given = self.kind
        return output


def _casts(program: Any) -> set[torch.dtype | None]:
    """The types, but for float32, that a TorchScript program names; None stands for others."""
    graph = program.inlined_graph
    found, nodes = set[torch.dtype | None](), list(graph.nodes())
    for node in nodes:
        nodes += [inner for block in node.blocks() for inner in block.nodes()]
        if "dtype" not in (schema := node.schema()):
            continue
        with suppress(RuntimeError, AttributeError):  # an operation or object of some library's
            names = [argument.name for argument in torch._C.parse_schema(schema).arguments]
            values = zip(names, node.inputs(), strict=False)
            numbers = [_number(value, program) for name, value in values if name.endswith("dtype")]
            found.update(SCALARS.get(number) for number in numbers)
    return found


def _number(value: Any, program: Any) -> Any:
    """A constant of a TorchScript graph, or an attribute of its module; None: neither."""
    path: list[str] = []
    while value.node().kind() == "prim::GetAttr":
        path.insert(0, value.node().s("name"))
        value = value.node().inputsAt(0)
    if not path:
        return value.toIValue()
    for name in path:
        program = getattr(program, name)
    return program


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
    batches = _batches(batch, program)
    fixed = all(isinstance(n, int) for n in rest)
    return Program(
        _Exported(program, batches, images.dtype),
        _classes(program),
        (rest[0], rest[1], rest[2]) if fixed else None,
        () if batches is None else (batches.note,),
        _training_mode(program),
        _normalises({**program.state_dict, **_unsaved(program)}),
    )


def _unsaved(program: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    """Buffers that are no part of a state dict."""
    held = program.constants.items()
    return {name: value for name, value in held if isinstance(value, torch.Tensor)}


def _batches(batch: int | torch.SymInt, program: torch.export.ExportedProgram) -> Batches | None:
    """The batches that a program takes; None: any, or they are to be searched for."""
    if isinstance(batch, int):
        return Batches(batch, batch)
    symbol = batch.node.expr
    known = program.range_constraints.get(symbol) if symbol.is_Symbol else None
    if known is None:
        return None
    least, most = known.lower, known.upper
    ends = Batches(int(least) if least > ANY else 1, int(most) if most.is_Integer else None)
    return None if ends == (1, None) else ends


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
    batches: Batches | None
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
        return Typed(FixedBatch(module, self.batches), self.kind)

    def __reduce__(self) -> tuple[Any, ...]:
        content = BytesIO()
        with _quiet():
            torch.export.save(self.program, content)
        return _exported_again, (content.getvalue(), self.batches, self.kind)


def _exported_again(content: bytes, batches: Batches | None, kind: torch.dtype) -> _Exported:
    with _quiet():
        return _Exported(torch.export.load(BytesIO(content)), batches, kind)


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
