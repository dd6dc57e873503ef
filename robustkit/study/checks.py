"""What a study names, tried before the first cell: what is not there is told at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from robustkit import losses, models
from robustkit.data import Dataset
from robustkit.errors import InputError
from robustkit.protocol import load_protocol
from robustkit.spec import TRAINED, Analysis, Study, TrainingSpec
from robustkit.study.cells import context
from robustkit.study.configuration import method_config
from robustkit.study.user_files import noise_of


def check(study: Study) -> None:
    """See that there is what a study names, and that each method's loss takes its settings.

    Builds the losses, for which it imports torch.

    Raises:
        InputError: something is not there, or not as it should be; the message names the file, and
            the method, analysis or key.
    """
    with locate_errors(study.where):
        if study.trained is not None:
            _check_trained(study, study.trained)
        if study.external is not None and study.external.model is not None:
            _check_model(study.external.model, "[checkpoints] model")
        with locate_errors("[test] protocol"):
            load_protocol(study.tested.protocol, norm=study.tested.norm)
        for analysis in study.analyses:
            if analysis.factor == "epsilon":
                _check_attack(analysis)


def check_unseen(trained: Dataset, tested: Dataset) -> None:
    """See that test images are others than those that are trained on.

    A few pictures that a data set has in both parts are its own; most of them are a mistake.

    Raises:
        InputError: more than half of them have the pixels of a training image.
    """
    pixels = {i.partition(":")[0] for i in trained.ids}
    seen = sum(i.partition(":")[0] in pixels for i in tested.ids)
    if 2 * seen > len(tested):
        raise InputError(
            f"{seen:,} of {len(tested):,} test images are training images, too; give others"
        )


@contextmanager
def locate_errors(where: str) -> Iterator[None]:
    """Whatever is refused inside begins with where that is."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(where) else f"{where}: {text}") from error


def _check_trained(study: Study, trained: TrainingSpec) -> None:
    _check_model(trained.model, "[train] model")
    names = tuple(method.name for method in study.methods)
    with locate_errors("[train] noise_kind"):
        for analysis in study.analyses:
            for level in analysis.levels if analysis.factor in TRAINED else ("",):
                _check_noise(trained.noise_kind, context(analysis, level).label_noise)
    timed = [a.methods or names for a in study.analyses if a.factor == "cost"]
    for method in study.methods:
        with locate_errors(f"method {method.name!r}"):
            for number in range(len(method.choose)):
                config = method_config(method, number, trained)
                losses.build(method.loss, config["settings"])
                if "processes" in config and any(method.name in named for named in timed):
                    raise InputError(
                        "what several processes cost depends on the cores that they share; "
                        "leave it out of the methods of the analysis of cost"
                    )


def _check_model(name: str, where: str) -> None:
    with locate_errors(where):
        models.source(name)
        if models.parse_name(name).kind in ("torchvision", "timm"):
            models.build(name, seed=0)  # only the library knows its names


def _check_noise(kind: str, rate: str) -> None:
    path = noise_of(kind, rate).path
    if path is not None and not path.is_file():
        raise InputError(f"{path}: no such file")


def _check_attack(analysis: Analysis) -> None:
    with locate_errors(f"analysis {analysis.name!r}"):
        if not load_protocol(analysis.protocol, norm=analysis.norm).attacks:
            raise InputError(f"the protocol {analysis.protocol!r} contains no attack")
