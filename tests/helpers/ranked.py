"""Records of several methods on several data sets, as `robustkit rank` takes them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from helpers.evaluations import evaluation
from robustkit.files import digest, file_digest
from robustkit.record import Evaluation, Store, rows_digest, table

METHODS = {"cross-entropy": 0.1, "hinge": 0.16, "l2-margin": 0.3}
"""how strong a perturbation fools them, by the median"""


def made(
    method: str,
    data: str,
    seed: int = 0,
    strength: float | None = None,
    folder: Path = Path(),
    images: Sequence[str] | None = None,
    **told: str,
) -> Evaluation:
    """A record in the folder, and what it says.

    `images` are their ids, where not the data's own; `told` is what else is known of the network.
    """
    number = sorted(METHODS).index(method) * 100 + len(data) * 10 + seed
    path = Path(f"nets/{method}_{data}_seed{seed}.pt")
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text(path.name)  # stands for the network
    found = evaluation(
        str(path),
        n=300,
        strength=strength or METHODS[method],
        seed=number,
        epsilons=("0.1", "0.2", "0.3") if data != "cifar10" else ("8/255", "0.1", "0.2", "0.3"),
        checkpoint={
            "loss": method,
            "seed": seed,
            "weights": digest(method, data, str(seed)),
            "sha256": file_digest(folder / path),
            **told,
        },
    )
    facts = {**found.header["data"], "name": data, "digest": digest(data)}
    header = {**found.header, "data": facts, "digest": digest(method, data, str(seed))}
    ids = images or [f"{digest(f'{data} {i}')[:32]}:1" for i in range(300)]
    rows = table(found.table.to_pydict() | {"sample": ids})
    run = {**found.run, "rows_digest": rows_digest(rows)}
    found = replace(found, header=header, run=run, table=rows)
    with Store(folder / "runs").claim(header["digest"], lambda: None) as blocks:
        blocks.finish(found.header, found.run, found.table)
    return found
