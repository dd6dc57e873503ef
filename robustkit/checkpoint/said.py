"""What flags, a sidecar and a name of published weights say of a checkpoint, by precedence."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

from robustkit.checkpoint import named
from robustkit.checkpoint.checkpoint import Checkpoint
from robustkit.checkpoint.libraries import Declared
from robustkit.checkpoint.metadata import CheckpointMetadata
from robustkit.checkpoint.selection import Selection, parse_renamed
from robustkit.fetching import Progress


class Said(NamedTuple):
    """What is said of a checkpoint from outside."""

    given: CheckpointMetadata
    aside: CheckpointMetadata
    """by its sidecar"""
    declared: Declared | None
    """by the library under whose name it is read"""
    note: str = ""
    """that this name was given as the architecture: the file may be another than the published"""

    @property
    def model(self) -> str | None:
        """The architecture that flags or the sidecar name."""
        return self.given.over(self.aside).model

    @property
    def selection(self) -> Selection:
        """What is taken of a file: what flags and sidecar say, and never the file itself."""
        said = self.given.over(self.aside)
        renamed = parse_renamed(said.rename)
        return Selection(said.weights_key, said.ignore or (), tuple(renamed or ()))

    def recognised(self, sha256: str) -> Self:
        """With what a library says of a file that it publishes, where it is named without a tag."""
        if (model := self.model) is None or self.declared is not None:
            return self
        declared, note = named.recognise(model, sha256)
        if declared is None:
            return self
        return self._replace(declared=declared, note=note).with_model(declared.called)

    def with_model(self, model: str) -> Self:
        """With another name of the architecture in the place of the one that is given."""
        if self.given.model is not None:
            return self._replace(given=replace(self.given, model=model))
        return self._replace(aside=replace(self.aside, model=model))


def as_named(said: Said, progress: Progress | None, sidecar: Path) -> Said:
    """With what a library says of the name that flags or the sidecar give as the architecture.

    A sidecar may come with a file of somebody's, so that nothing is fetched because it says so.

    Raises:
        CheckpointError: as `named.declare`, or only a sidecar names what would have to be fetched.
    """
    if (model := said.model) is None:
        return said
    name = named.parse(model)
    declared, note = None, ""
    if name is not None and said.given.model is not None:
        declared, note = named.declare(name, progress)
    elif name is not None:
        declared, note = named.declare_offline(name, str(sidecar))
    said = said._replace(declared=declared, note=note)
    return said if declared is None else said.with_model(declared.called)


def merged(base: Checkpoint, outside: Said, recorded: CheckpointMetadata) -> Checkpoint:
    """The checkpoint with everything that is known of it: flags, then sidecar, then the file."""
    given = outside.given
    said = given.over(outside.aside).over(recorded)
    warnings = base.warnings
    if said.sha256 not in (None, base.sha256):
        warnings += ("the sidecar was written for another version of this file",)
    preprocessing = base.preprocessing
    if given.mean is not None:
        preprocessing = "given"
    elif said.mean is not None or said.normalised is False:
        preprocessing = "recorded"
    # from here on `preprocessing` says what `normalised` did
    known = replace(said, sha256=base.sha256, normalised=None).known()
    return replace(
        base,
        **known,
        trained_shape=recorded.input_shape,
        preprocessing=preprocessing,
        warnings=warnings,
    )
