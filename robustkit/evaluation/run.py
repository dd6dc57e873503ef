"""The record of an evaluation: from its file, if it can be without torch; else `computing`."""

from pathlib import Path
from typing import get_args

from robustkit.data import Dataset
from robustkit.errors import InputError, cut
from robustkit.evaluation.config import Prove, check_surrogate, evaluation_key, told_by_files
from robustkit.evaluation.model import EvaluatedModel
from robustkit.evaluation.options import Precision, RunOptions
from robustkit.evaluation.verification import verifying
from robustkit.files import whole_number
from robustkit.machine import kind_of_device
from robustkit.protocol import Protocol
from robustkit.record import Evaluation, Store

_KNOWN = f"known are {', '.join(get_args(Precision))}"


def run(
    model: EvaluatedModel,
    data: Dataset,
    protocol: Protocol,
    out: Path,
    options: RunOptions,
    surrogate: EvaluatedModel | None = None,
    prove: Prove = "off",
) -> Evaluation:
    """The record of an evaluation: from its file, or computed now.

    With a surrogate every step of the attack is taken by it, and the model only classifies the
    last. With `prove` images are bounded first where that pays, and not attacked at budgets that
    they provably withstand.

    Raises:
        InputError, EvaluationFailed: as `evaluate`.
    """
    check_asked(protocol, options, surrogate, prove)
    model = verifying(model, data)
    surrogate = surrogate and verifying(surrogate, data)
    kind = kind_of_device(options.device)
    plain = options.precision == "float32" and told_by_files(model, surrogate)
    if kind is not None and plain and not options.anew:
        key = evaluation_key(model, data, protocol, kind, surrogate, prove=prove)
        if (found := Store(out).find(key.digest)) is not None:
            return found
    from robustkit.evaluation.computing import computed  # torch

    return computed(model, data, protocol, out, options, surrogate, prove)


def check_asked(
    protocol: Protocol, options: RunOptions, surrogate: EvaluatedModel | None, prove: Prove
) -> None:
    """Nothing, if what is asked makes sense together, as far as is known without torch.

    Raises:
        InputError: it does not.
    """
    if options.batch_size != "auto":
        whole_number(options.batch_size, "--batch-size", least=1)
    if options.precision not in get_args(Precision):
        raise InputError(f"--precision {cut(options.precision)}: {_KNOWN}")
    if prove not in get_args(Prove):
        raise InputError(f"prove {prove!r}: expected auto or off")
    if options.ray is not None and (options.device == "all" or "," in options.device):
        raise InputError("--ray takes the cluster's own devices; give it or several --device")
    check_surrogate(protocol, surrogate)
