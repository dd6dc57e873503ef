"""Hugging Face transformers' layout: `config.json` names a class of the library's own.

`read_config` takes the file as data and needs no library. `build` makes the network of it: a class
from the library's own table of image classifiers, whose configuration gets plain values and nothing
that would have anything fetched or imported. The weights are handed over as tensors, so that the
library renames them as it does for itself, and has no path and no name of a repository.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustkit.checkpoint.libraries import table
from robustkit.errors import CheckpointError, UnknownName, cut
from robustkit.unpickling.tensors import State

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
CODE = (
    "use_timm_backbone", "backbone", "backbone_config", "backbone_kwargs",
    "use_pretrained_backbone", "quantization_config", "compression_config", "fusion_config",
    "per_layer_config", "distributed_config", "gguf_file", "transformers_weights",
    "adapter_config",
)  # fmt: skip
"""keys by which a library fetches or imports something, or builds another network than the class"""
IDLE = (
    "architectures", "attn_implementation", "auto_map", "custom_pipelines", "dtype",
    "experts_implementation", "finetuning_task", "gradient_checkpointing", "id2label", "label2id",
    "label_names", "model_type", "name_or_path", "num_labels", "output_attentions",
    "output_hidden_states", "problem_type", "return_dict", "task_specific_params", "torch_dtype",
    "torchscript", "transformers_version", "use_cache",
)  # fmt: skip
"""keys that say nothing of what the network computes, or are looked at by themselves"""
ATTENTION = ("eager", "sdpa")
"""implementations of attention that are the library's and torch's own"""


def is_config(said: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of transformers'."""
    return isinstance(said.get("model_type"), str)


def architecture(said: Mapping[str, Any], where: str) -> str:
    """The class that it names, or else its kind of model.

    Raises:
        CheckpointError: it names something else than a class.
    """
    listed = said.get("architectures") or [said.get("model_type")]
    if not isinstance(listed, list) or not all(isinstance(n, str) and n for n in listed):
        table.refuse(where, "architectures", listed, "a list of names")
    if not listed[0].isidentifier() and not table.text(said, "model_type", where):
        table.refuse(where, "architectures", listed[0], "the name of a class")
    return str(listed[0])


def num_classes(said: Mapping[str, Any], where: str) -> int | None:
    """How many there are; None where nothing is said, which leaves it to the library's class.

    Raises:
        CheckpointError: it contradicts itself, or several classes may be right at a time.
    """
    problem = table.text(said, "problem_type", where)
    if problem not in ("", "single_label_classification"):
        raise CheckpointError(
            f"{where}: problem_type {cut(problem)}: only single-label classification is supported"
        )
    labels, count = said.get("id2label"), said.get("num_labels")
    named = table.classes(len(labels), "id2label", where) if isinstance(labels, Mapping) else None
    counted = None if count is None else table.classes(count, "num_labels", where)
    # where they differ, it hangs on the class which of them is taken
    return None if named and counted and named != counted else named or counted


def label_names(said: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The names of the classes; none where nobody named them."""
    return table.names(said["id2label"], "id2label", where) if said.get("id2label") else ()


def arguments(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the network is built by: the plain values that decide on what it computes.

    Raises:
        CheckpointError: something would be fetched or imported, or is of absurd size.
    """
    kept = dict(_kept(said, where))
    table.check_sizes(kept, where)
    labels = len(said["id2label"]) if isinstance(said.get("id2label"), Mapping) else None
    named = {key: said.get(key) for key in ("model_type", "architectures", "num_labels")}
    return {**named, "labels": labels, **kept}


def _kept(said: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in said.items():
        if key in CODE and value not in (None, False, {}, []):
            raise CheckpointError(
                f"{where}: {key} makes the library download or import something, which is "
                "never done because a folder says so; build the network in FILE.py and "
                "pass --model"
            )
        if key.lstrip("_") == "attn_implementation" and isinstance(value, str) and "/" in value:
            raise CheckpointError(
                f"{where}: {key} {cut(value)}: code from a repository, which is never "
                f"downloaded; use one of {', '.join(ATTENTION)}"
            )
        if key not in (*CODE, *IDLE) and key.isidentifier() and not key.startswith("_"):
            yield key, dict(_nested(value, where)) if isinstance(value, Mapping) else value


def _nested(said: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    yield from _kept(said, where)
    if isinstance(said.get("model_type"), str):
        yield "model_type", said["model_type"]


def build(said: Mapping[str, Any], state: State, where: str) -> "torch.nn.Module":
    """The network with the file's weights in it, all of them and no others.

    Args:
        said: the `arguments` of a `config.json`.
        state: the file's weights by its own names.
        where: for messages.

    Raises:
        CheckpointError: the library has no such image classifier, or the weights are not its own.
    """
    import torch

    from robustkit.checkpoint.holding import check_holds
    from robustkit.checkpoint.libraries.built import no_larger

    with _quiet(), torch.random.fork_rng(devices=[]):
        kind: Any = getattr(import_module("transformers"), class_name(said, where))
        config = _configuration(kind.config_class, said)
        with torch.device("meta"), no_larger(state):
            kind(config)
        tensors = {name: torch.from_numpy(numbers) for name, numbers in state.items()}
        made: torch.nn.Module = kind.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            local_files_only=True,
            # a shape that differs is told below, by name
            ignore_mismatched_sizes=True,
        )
    ignored = getattr(made, "_keys_to_ignore_on_load_unexpected", None) or ()
    check_holds(made, state, ignored, where)
    return made


def class_name(said: Mapping[str, Any], where: str) -> str:
    """The class, from the table of image classifiers that the library ships with.

    Raises:
        CheckpointError: none of these.
    """
    auto: Any = import_module("transformers.models.auto.modeling_auto")
    known = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    kind = said["model_type"]
    if kind not in known:
        raise CheckpointError(
            f"{where}: {UnknownName('image classifier of transformers', kind, known)}"
        )
    offered = known[kind] if isinstance(known[kind], tuple | list) else (known[kind],)
    named = [name for name in said["architectures"] or offered if name in offered]
    if not named:
        raise CheckpointError(
            f"{where}: architectures: {cut(', '.join(said['architectures']))} is no image "
            f"classifier; for {kind} that is {' or '.join(offered)}"
        )
    return str(named[0])


def _configuration(kind: Any, said: Mapping[str, Any]) -> Any:
    """The configuration, of plain values for which it has a place or no use."""
    fields = getattr(kind, "__dataclass_fields__", {})
    taken = {
        key: value
        for key, value in said.items()
        # what is a method or a constant of the class is none of a file's business
        if key not in ("model_type", "architectures", "num_labels", "labels")
        and (key in fields or not _is_its_own(kind, key))
    }
    if said["num_labels"] is not None:
        taken["num_labels"] = said["num_labels"]
    if said["labels"] is not None:
        taken["id2label"] = {str(place): str(place) for place in range(said["labels"])}
    return kind(**taken)


def _is_its_own(kind: Any, key: str) -> bool:
    value = getattr(kind, key, None)
    return callable(value) or key in ("sub_configs", "attribute_map", "base_config_key")


@contextmanager
def _quiet() -> Iterator[None]:
    """The library without bars and reports: what they would say is checked here by value."""
    words: Any = import_module("transformers.utils.logging")
    level, bars = words.get_verbosity(), words.is_progress_bar_enabled()
    words.set_verbosity(logging.CRITICAL)
    words.disable_progress_bar()
    try:
        yield
    finally:
        words.set_verbosity(level)
        if bars:
            words.enable_progress_bar()
