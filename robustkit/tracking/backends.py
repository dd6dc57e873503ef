"""The trackers, each with the same few calls. Their packages are imported when a run begins."""

import io
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self


class Backend(ABC):
    """A run of a tracker; any call may raise whatever its package does."""

    title: ClassVar[str]
    package: ClassVar[str]
    """that is imported"""

    @classmethod
    @abstractmethod
    def begin(cls, where: str, project: str, title: str) -> Self:
        """A new run of that title."""

    @abstractmethod
    def parameters(self, values: Mapping[str, str]) -> None:
        """What was asked for, by name."""

    @abstractmethod
    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """Numbers by name; `step` is None where there is but one of each."""

    @abstractmethod
    def figure(self, name: str, png: bytes) -> None:
        """A picture."""

    @abstractmethod
    def artefact(self, path: Path) -> None:
        """A file, which stays where it is."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """The end of the run."""


class MlflowRun(Backend):
    """MLflow, by its client alone, so that nothing of the process changes; the rest is MLflow's.

    WHERE is an address ("http://…", "sqlite:///…") or a folder.
    """

    title = "MLflow"
    package = "mlflow"
    _LONGEST = 6000
    """characters of a parameter's value"""

    def __init__(self, client: Any, run: str) -> None:
        self.client, self.run = client, run

    @classmethod
    def begin(cls, where: str, project: str, title: str) -> Self:
        """See `Backend`."""
        if where and not re.match(r"\w[\w+]+:|databricks$", where):
            # a folder was asked for by name, which newer versions take for an oversight
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            where = Path(where).resolve().as_uri()
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=where or None)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", project)
        known = client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else client.create_experiment(name)
        return cls(client, client.create_run(experiment, run_name=title).info.run_id)

    def parameters(self, values: Mapping[str, str]) -> None:
        """See `Backend`."""
        for key, value in values.items():
            self.client.log_param(self.run, _fit(key), value[: self._LONGEST])

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """See `Backend`."""
        for key, value in values.items():
            self.client.log_metric(self.run, _fit(key), value, step=step or 0)

    def figure(self, name: str, png: bytes) -> None:
        """See `Backend`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.png"
            path.write_bytes(png)
            self.client.log_artifact(self.run, str(path), "figures")

    def artefact(self, path: Path) -> None:
        """See `Backend`."""
        self.client.log_artifact(self.run, str(path))

    def close(self, failed: bool) -> None:
        """See `Backend`."""
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


class WandbRun(Backend):
    """Weights & Biases. WHERE is PROJECT or ENTITY/PROJECT; the rest is told by W&B's variables."""

    title = "Weights & Biases"
    package = "wandb"

    def __init__(self, run: Any) -> None:
        self.run = run

    @classmethod
    def begin(cls, where: str, project: str, title: str) -> Self:
        """See `Backend`."""
        import wandb

        entity, _, named = where.rpartition("/")
        settings = wandb.Settings(silent=True, console="off", disable_git=True)
        run = wandb.init(
            entity=entity or None,
            project=named or os.environ.get("WANDB_PROJECT", project),
            name=title,
            settings=settings,
            reinit="create_new",
        )
        return cls(run)

    def parameters(self, values: Mapping[str, str]) -> None:
        """See `Backend`."""
        self.run.config.update(dict(values), allow_val_change=True)

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """See `Backend`."""
        if step is None:
            self.run.summary.update(dict(values))
        else:
            self.run.log(dict(values), step=step)

    def figure(self, name: str, png: bytes) -> None:
        """See `Backend`."""
        import wandb
        from PIL import Image

        self.run.log({name: wandb.Image(Image.open(io.BytesIO(png)))})

    def artefact(self, path: Path) -> None:
        """See `Backend`."""
        import wandb

        kept = wandb.Artifact(_name(path.name), type="result")
        kept.add_file(str(path))
        self.run.log_artifact(kept)

    def close(self, failed: bool) -> None:
        """See `Backend`."""
        self.run.finish(exit_code=int(failed))


class TensorboardRun(Backend):
    """TensorBoard, which keeps no files: of an artefact its path is told. WHERE is a folder."""

    title = "TensorBoard"
    package = "tensorboard"

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    @classmethod
    def begin(cls, where: str, project: str, title: str) -> Self:
        """See `Backend`."""
        from torch.utils.tensorboard import SummaryWriter

        return cls(SummaryWriter(Path(where or "tensorboard") / _name(title)))

    def parameters(self, values: Mapping[str, str]) -> None:
        """See `Backend`."""
        rows = [f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in values.items()]
        self.writer.add_text("parameters", "\n".join(["| parameter | value |", "| - | - |", *rows]))

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """See `Backend`."""
        for key, value in values.items():
            self.writer.add_scalar(_fit(key), value, step or 0)

    def figure(self, name: str, png: bytes) -> None:
        """See `Backend`."""
        import numpy as np
        from PIL import Image

        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self.writer.add_image(name, pixels, dataformats="HWC")

    def artefact(self, path: Path) -> None:
        """See `Backend`."""
        self.writer.add_text("files", str(path))

    def close(self, failed: bool) -> None:
        """See `Backend`."""
        self.writer.close()


BACKENDS: Mapping[str, type[Backend]] = {
    "mlflow": MlflowRun,
    "wandb": WandbRun,
    "tensorboard": TensorboardRun,
}


def _fit(key: str) -> str:
    """A key of those characters that all trackers take."""
    return re.sub(r"[^\w./ -]+", "_", key, flags=re.ASCII)[:250]


def _name(text: str) -> str:
    """A name for a file or an artefact."""
    return re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip(".")[:120] or "run"
