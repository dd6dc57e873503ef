"""Whether an answer is on file: every key in full, and what is left out of each with the reason."""

import hashlib
import json
from dataclasses import fields, replace

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch

from robustkit import data, evaluation, models
from robustkit.attacks import REVISION
from robustkit.auditing import plan as plans
from robustkit.auditing import run as audits
from robustkit.auditing.run import AuditRequest
from robustkit.auditing.stages import StageSettings, ThreatModel
from robustkit.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from robustkit.checkpoint.checkpoint import ADAPTER
from robustkit.checkpoint.weights import weights_digest
from robustkit.data import Dataset
from robustkit.evaluation import Config, RunOptions, from_checkpoint, resolve_protocol
from robustkit.files import canonical, digest, shipped
from robustkit.keys import (
    AuditPartKey,
    CellKey,
    CellTestKey,
    CertificationKey,
    CheckpointKey,
    EngineKey,
    EvaluationKey,
    ExternalCellKey,
    Key,
    ModuleKey,
    PassTimesKey,
    SearchTimesKey,
    StepTimesKey,
    TrainingKey,
    short,
)
from robustkit.protocol import Protocol, parse_epsilon
from robustkit.spec import Method, TrainingSpec
from robustkit.study import cells, work
from robustkit.training import TrainingConfig, TrainingOptions

ENGINE = EngineKey(revision=3, torch="2.15.0", foolbox="3.3.4", device="cpu")
CPU = torch.device("cpu")

# of each key an example, and of each of its fields another value
KEYS = [
    (
        CheckpointKey(weights="w", mean=[0.5], std=[0.25], adapter="a/1", model="m", code="c"),
        {
            "weights": "v",
            "mean": None,
            "std": [0.5],
            "adapter": "a/2",
            "model": "n",
            "code": "d",
            "program": "p",
            "graph": "g",
            "pins": {"onnx": "1"},
            "image_by_image": True,
        },
    ),
    (
        ModuleKey(module="Net", name="net", adapter="a/1", weights="w", tree="t"),
        {
            "module": "Not",
            "name": None,
            "adapter": "a/2",
            "weights": "v",
            "tree": "u",
            "image_by_image": True,
        },
    ),
    (
        EvaluationKey(checkpoint={"weights": "w"}, data="d", protocol={"seed": 0}, engine=ENGINE),
        {
            "checkpoint": {"weights": "v"},
            "data": "e",
            "protocol": {"seed": 1},
            "engine": replace(ENGINE, device="cuda"),
            "surrogate": {"weights": "w"},
            "prove": 1,
        },
    ),
    (
        CertificationKey(
            revision=1, checkpoint={"weights": "w"}, data="d", protocol={"seed": 0}, engine=ENGINE
        ),
        {
            "revision": 2,
            "checkpoint": {"weights": "v"},
            "data": "e",
            "protocol": {"seed": 1},
            "engine": replace(ENGINE, device="cuda"),
        },
    ),
    (
        AuditPartKey(
            part="corruptions",
            revision=1,
            engine=3,
            checkpoint={"weights": "w"},
            seed=0,
            epsilon="1/10",
            norm="linf",
            device="cpu",
            torch="2.15.0",
            data="d",
            settings=("corruption/1",),
        ),
        {
            "part": "smoothed",
            "revision": 2,
            "engine": 4,
            "checkpoint": {"weights": "v"},
            "seed": 1,
            "epsilon": "1/5",
            "norm": "l2",
            "device": "cuda",
            "torch": "2.16.0",
            "data": "e",
            "settings": ("corruption/2",),
            "training": "t",
        },
    ),
    (
        TrainingKey(
            model={"name": "lenet5", "code": "c"},
            loss={"name": "hinge", "settings": {}, "code": "c"},
            data={"name": "d", "digest": "d"},
            recipe={"steps": 10},
            seed=0,
            keep="last",
            compress=None,
            memory=True,
            precision="float32",
            deterministic=False,
            processes=1,
            device="cpu",
            torch="2.15.0",
            revision=1,
        ),
        {
            "model": {"name": "lenet5", "code": "e"},
            "loss": {"name": "hinge", "settings": {"margin": 2}, "code": "c"},
            "data": {"name": "d", "digest": "e"},
            "recipe": {"steps": 11},
            "seed": 1,
            "keep": "best",
            "compress": "one-bit",
            "memory": False,
            "precision": "tf32",
            "deterministic": True,
            "processes": 2,
            "device": "cuda",
            "torch": "2.16.0",
            "revision": 2,
            "rescale": False,
        },
    ),
    (
        CellKey(
            model="lenet5",
            data={"name": "d", "digest": "d"},
            loss="hinge",
            settings={},
            recipe={"steps": 10},
            noise={"kind": "uniform", "rate": "0"},
            fraction="1",
            seed=0,
            revision=1,
        ),
        {
            "model": "mnist-cnn",
            "data": {"name": "d", "digest": "e"},
            "loss": "trades",
            "settings": {"margin": 2},
            "recipe": {"steps": 11},
            "noise": {"kind": "uniform", "rate": "0.2"},
            "fraction": "0.5",
            "seed": 1,
            "revision": 2,
            "compress": "one-bit",
            "memory": False,
            "model_code": "c",
            "loss_code": "c",
            "precision": "bf16",
            "snapshots": [1, 2],
            "score": "accuracy",
            "processes": 4,
            "training": 3,
            "calibration": 2,
            "rescale": False,
        },
    ),
    (
        ExternalCellKey(checkpoint="a.pt", sha256="s", model=None, fields={"seed": "0"}),
        {
            "checkpoint": "b.pt",
            "sha256": "t",
            "model": "lenet5",
            "fields": {"seed": "1"},
            "model_code": "c",
            "sidecar": "s",
            "revision": 2,
        },
    ),
    (
        CellTestKey(
            cell="c",
            protocol="pgd",
            epsilons=("0.1",),
            limit=None,
            data="mnist",
            split="test",
            images="d",
            surrogate="",
        ),
        {
            "cell": "d",
            "protocol": "fgsm",
            "epsilons": ("0.2",),
            "limit": 100,
            "data": "svhn",
            "split": "train",
            "images": "e",
            "surrogate": "c",
            "norm": "l2",
            "resolved": "r",
            "passes": "4",
            "precision": "bf16",
            "attacks": 8,
        },
    ),
    (
        StepTimesKey(cells=[{"seed": 0}, {"seed": 1}], device="cpu"),
        {"cells": [{"seed": 1}, {"seed": 0}], "device": "cuda", "revision": 2},
    ),
    (
        PassTimesKey(
            checkpoint={"weights": "w"}, shape=[1, 28, 28], device="a", torch="2", revision=1
        ),
        {
            "checkpoint": {"weights": "v"},
            "shape": [3, 28, 28],
            "device": "b",
            "torch": "3",
            "revision": 2,
        },
    ),
    (
        SearchTimesKey(passes={"torch": "2"}, protocol={"norm": "l2"}),
        {"passes": {"torch": "3"}, "protocol": {"norm": "linf"}},
    ),
]
ENGINES = {
    "revision": 4,
    "torch": "2.16.0",
    "foolbox": "3.3.5",
    "device": "cuda",
    "precision": "bf16",
    "batch_size": 64,
}


@pytest.mark.parametrize(("key", "others"), KEYS, ids=lambda value: type(value).__name__)
def test_another_value_of_any_field_is_another_digest(key, others):
    assert set(others) == {field.name for field in fields(key)}, "a new field needs a row"
    digests = {
        key.digest,
        *(replace(key, **{name: value}).digest for name, value in others.items()),
    }
    assert len(digests) == len(others) + 1
    assert json.loads(canonical(key.plain()))


def test_another_value_of_any_field_of_the_engine_is_another_digest():
    assert set(ENGINES) == {field.name for field in fields(EngineKey)}
    whole = next(key for key, _ in KEYS if isinstance(key, EvaluationKey))
    engines = [ENGINE, *(replace(ENGINE, **{name: value}) for name, value in ENGINES.items())]
    assert len({replace(whole, engine=one).digest for one in engines}) == len(engines)


def test_every_key_is_in_the_table():
    assert {type(key).__name__ for key, _ in KEYS} == {one.__name__ for one in Key.__subclasses__()}


# fields that came after keys of the kind were on file
LATER = {
    AuditPartKey: {"training"},
    CheckpointKey: {"model", "code", "program", "graph", "pins", "image_by_image"},
    ModuleKey: {"image_by_image"},
    EvaluationKey: {"surrogate", "prove"},
    TrainingKey: {"rescale"},
    CellKey: {
        *("compress", "memory", "model_code", "loss_code", "precision", "snapshots", "score"),
        *("processes", "training", "calibration", "rescale"),
    },
    ExternalCellKey: {"model_code", "sidecar", "revision"},
    StepTimesKey: {"revision"},
    CellTestKey: {"norm", "passes", "precision", "resolved", "attacks"},
}
RENAMED = {"images": "digest"}
"""in the JSON of a study's tests on file"""


@pytest.mark.parametrize(("key", "others"), KEYS, ids=lambda value: type(value).__name__)
def test_the_json_of_a_key_is_its_fields_without_the_later_ones_that_do_not_apply(key, others):
    later = LATER.get(type(key), set())
    first = {one.name: getattr(key, one.name) for one in fields(key) if one.name not in later}
    bare = type(key)(**first)
    expected = {RENAMED.get(name, name): value for name, value in first.items()}
    if "engine" in expected and expected["engine"] is ENGINE:
        expected["engine"] = {
            "revision": 3,
            "torch": "2.15.0",
            "foolbox": "3.3.4",
            "device": "cpu",
        }
    assert bare.plain() == expected
    for name in later:
        assert replace(bare, **{name: others[name]}).plain() == expected | {name: others[name]}
    for name in first:
        # what was unknown from the first on is written down as that
        told = RENAMED.get(name, name)
        assert replace(bare, **{name: None}).plain() == expected | {told: None}


@pytest.mark.parametrize("key", [key for key, _ in KEYS], ids=lambda key: type(key).__name__)
def test_a_digest_is_the_sha256_of_the_json_behind_its_length(key):
    text = json.dumps(key.plain(), sort_keys=True, separators=(",", ":")).encode()
    expected = hashlib.sha256(len(text).to_bytes(8, "little") + text).hexdigest()
    assert key.digest == expected
    assert key.short == short(key.plain()) == expected[:24]


def test_a_part_of_an_audit_is_named_by_what_it_is_and_its_digest():
    key = next(key for key, _ in KEYS if isinstance(key, AuditPartKey))
    assert key.file == f"corruptions-{key.digest[:32]}.json"
    assert len(key.file) == len("corruptions-.json") + 32


def test_published_records_are_found_by_the_keys_of_today():
    """Whatever is added to a key must leave the digests of the evidence that is published."""
    count = 0
    for path in sorted(shipped("reports").glob("*/evidence.parquet")):
        texts = parquet.read_table(path, columns=["header"])["header"].to_pylist()
        for header in (json.loads(text) for text in texts if text):
            engine = {field.name: header["engine"].get(field.name) for field in fields(EngineKey)}
            key = EvaluationKey(
                checkpoint=identity(header["checkpoint"]),
                data=header["data"]["digest"],
                protocol=header["protocol"]["resolved"],
                engine=EngineKey(**engine),
                surrogate=identity(header["surrogate"]) if "surrogate" in header else None,
            )
            assert key.digest == header["digest"], path
            count += 1
    assert count > 400


def identity(told):
    """The key of a checkpoint from what a header tells of it."""
    known = {name: told[name] for name in ("weights", "mean", "std", "model")}
    return CheckpointKey(**known, adapter=ADAPTER, code=models.source(told["model"])).plain()


# --- what is left out -----------------------------------------------------------------------------

SHOWN = "for people; the record has it in its header"
EFFORT = "how fast, not what: rows agree up to float32 rounding whatever it is"
PLACE = "where files stand"
FOLLOWS = "follows from fields that are in the key"
DATA = "what it makes of the images is in their ids, labels, order and transform"

# of every input of a key, the field of the key that holds it, or why none does
EVALUATION = {
    Config: (
        {
            "model": "checkpoint",
            "data": "data",
            "protocol": "protocol",
            "device": "engine",
            "surrogate": "surrogate",
            "low": "engine",
            "prove": "prove",
        },
        {},
    ),
    RunOptions: (
        # the batch size where the precision is low
        {"device": "engine", "precision": "engine", "batch_size": "engine"},
        {
            "fresh": "asks for a second run of the same",
            "save_adversarial": PLACE,
            "progress": "is told how far it is",
            "waiting": "is told that another process is at work",
            "stage": "is told what it is at",
            "began": "is told that images begin",
            "told": "is told what an automatic choice came to",
            "ray": "says who does the work",
        },
    ),
    Dataset: (
        {
            "labels": "data",
            "ids": "data",
            "digest": "data",
            "_counted": "data",  # of the transform
            "classes": "data",  # their number
        },
        {
            "name": SHOWN,
            "title": SHOWN,
            "split": SHOWN,
            "shape": FOLLOWS,
            "budgets": "chosen ones stand in the protocol",
            "order": "the ids stand in their order",
            "source": SHOWN,
            "warnings": SHOWN,
            "notes": SHOWN,
            "_source": DATA,
            "_positions": DATA,
            "transform": SHOWN,
            "_transform": DATA,
            "_files": "whose images count, and are held against their ids",
            "_ordered": "the ids stand in their order",
        },
    ),
    Protocol: (
        {
            "norm": "protocol",
            "attacks": "protocol",
            "epsilons": "protocol",
            "target": "protocol",
            "search": "protocol",
            "seed": "protocol",
        },
        {"name": SHOWN, "title": SHOWN, "text": SHOWN},
    ),
}
CHECKPOINT = {
    Checkpoint: (
        {
            "weights": "weights",
            "mean": "mean",
            "std": "std",
            "model": "model",
            "_network": "code",
        },
        {
            "path": PLACE,
            "sha256": "another container of the same weights is the same network",
            "format": "likewise",
            "container": "likewise",
            "weights_key": "the weights that it chose are digested",
            "ignore": "those that are left are digested",
            "rename": "names are digested as they are then",
            "prefix": "likewise: names are digested without it",
            "num_classes": "only checked against what the network returns",
            "input_shape": SHOWN,
            "trained_shape": SHOWN,
            "resize": "the data set's transform, in its digest",
            "crop": "likewise",
            "channels": "likewise",
            "interpolation": "likewise",
            "normalised": "without a mean either way",
            "loss": SHOWN,
            "label_noise": SHOWN,
            "data_fraction": SHOWN,
            "seed": SHOWN,
            "trained_on": SHOWN,
            "recorded_accuracy": SHOWN,
            "extra": SHOWN,
            "preprocessing": SHOWN,
            "notes": SHOWN,
            "warnings": SHOWN,
            "hint": SHOWN,
            "recognised": "says who names the architecture, whose name is in the key",
            "published": "a name, as a path is; the weights count",
            "unmet": "with it there is no network, and so no answer",
            "pipeline": "the data set's transform, in its digest",
            "label_names": "decide on the labels, which stand in the data's digest",
            "identity": "is the key",
        },
    ),
}
AUDIT = {
    AuditRequest: (
        {
            "model": "checkpoint",
            "data": "data",
            "threat": "norm",
            "plan": "settings",
            "training": "training",
            "published": "data",
        },
        {
            "claim": "judged from the parts, which do not depend on it",
            "against": "networks that have evaluations of their own",
            "surrogate": "what its attack found is in the settings of the indicators",
            "policy": "judged from the parts",
            "budget": SHOWN,
            "command": SHOWN,
        },
    ),
    ThreatModel: (
        {"norm": "norm", "judged": "epsilon", "budgets": "settings", "seed": "seed"},
        {},
    ),
    StageSettings: (
        {},
        {
            "out": PLACE,
            "options": EFFORT,
            "begin": "is told what begins",
            "over": "ends the audit; what is kept is whole",
        },
    ),
    plans.AuditPlan: (
        {
            "indicators": "data",
            "certified": "data",
            "multiplications": "settings",
            "corrupted": "data",
            "smoothing": "settings",
            "thresholds": "settings",
        },
        {
            "name": SHOWN,
            "title": SHOWN,
            "text": SHOWN,
            "images": "the data are those images already",
            "delta": "the verdict, which is judged anew each time",
            "branching": "its outcomes are records of their own, taken up where more time is given",
            "stages": "evaluations with keys of their own; indicators hold what these found",
        },
    ),
}
TRAINING = {
    TrainingConfig: (
        {
            "model": "model",
            "data": "data",
            "loss": "loss",
            "settings": "loss",
            "recipe": "recipe",
            "noise": "data",
            "fraction": "data",
            "seed": "seed",
            "keep": "keep",
            "clean_selection": "data",
            "compress": "compress",
            "memory": "memory",
            "precision": "precision",
            "deterministic": "deterministic",
        },
        {},
    ),
    TrainingOptions: (
        {"device": "device"},
        {
            "fresh": "asks for a second run of the same",
            "replace": "what is gone on from has the same key, and the rest is left",
            "seconds": "between saved states, from which a run goes on to the same weights",
            "snapshots": "weights on the way, in files of their own, which change none of the last",
            "scored": "looks at held-out images, which change no weight",
            "pause": "from which it goes on to the same weights",
            "callbacks": "are told how far it is",
        },
    ),
}
CELL = {
    cells.Cell: (
        {"seed": "seed", "asked": "recipe"},
        {
            "method": "a name: methods that ask for the same training share it",
            "context": "its noise and fraction are in what is asked",
            "configuration": "a number: what it changes is in what is asked",
        },
    ),
    TrainingSpec: (
        {
            "data": "data",
            "model": "model",
            "steps": "recipe",
            "batch_size": "recipe",
            "hold_out": "recipe",
            "noise_kind": "noise",
            "precision": "precision",
            "snapshots": "snapshots",
        },
        {"seeds": "each cell has one of them"},
    ),
    Method: (
        {"loss": "loss", "settings": "settings", "recipe": "recipe", "choose": "recipe"},
        {"name": "methods that ask for the same training share it"},
    ),
}
TEST = {
    cells.Test: (
        {
            "cell": "cell",
            "protocol": "protocol",
            "epsilons": "epsilons",
            "limit": "limit",
            "data": "data",
            "split": "split",
            "digest": "images",
            "surrogate": "surrogate",
            "norm": "norm",
            "resolved": "resolved",
            "passes": "passes",
            "precision": "precision",
        },
        {},
    )
}
STEP_TIMES = {
    work.WorkerConfig: (
        {"device": "device"},
        {
            "folder": PLACE,
            "data_root": PLACE,
            "threads": "methods are compared with each other, timed with the same",
        },
    )
}
INPUTS = [
    (key, one, *held)
    for key, inputs in (
        (EvaluationKey, EVALUATION),
        (CheckpointKey, CHECKPOINT),
        (AuditPartKey, AUDIT),
        (TrainingKey, TRAINING),
        (CellKey, CELL),
        (CellTestKey, TEST),
        (StepTimesKey, STEP_TIMES),
    )
    for one, held in inputs.items()
]


@pytest.mark.parametrize(("key", "source", "held", "left_out"), INPUTS)
def test_every_input_is_in_the_key_or_left_out_for_a_reason(key, source, held, left_out):
    assert set(held) | set(left_out) == {field.name for field in fields(source)}
    assert not set(held) & set(left_out)
    assert set(held.values()) <= {field.name for field in fields(key)}
    assert all(left_out.values())


# --- what fills the keys --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return data.load_dataset("mnist5k", limit=20)


@pytest.fixture
def config(digits):
    model = from_checkpoint(read_checkpoint("lenet5-mnist5k"))
    return Config(model, digits, resolve_protocol("pgd", digits), CPU)


def test_a_record_is_another_on_another_device_or_with_other_versions(config, monkeypatch):
    found = {config.key.digest, replace(config, device=torch.device("cuda")).key.digest}
    for target, value in (
        ("robustkit.evaluation.config.REVISION", REVISION + 1),
        ("robustkit.evaluation.config.version", lambda name: "another"),
        ("robustkit.evaluation.config.torch_version", lambda: "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, value)
            found.add(config.key.digest)
    assert len(found) == 5
    assert evaluation.record_header(config)["digest"] == config.key.digest


def test_a_record_is_another_with_a_surrogate_or_other_data(config, digits):
    others = [
        replace(config, surrogate=config.model),
        replace(config, prove="auto"),
        replace(config, data=digits.take(range(19))),
        replace(config, protocol=resolve_protocol("fgsm", digits)),
        replace(config, model=replace(config.model, identity={"weights": "others"})),
    ]
    assert len({config.key.digest, *(one.key.digest for one in others)}) == 6
    # where the question rules proofs out, both settings ask the same
    transfer = replace(config, surrogate=config.model)
    assert replace(transfer, prove="auto").key == transfer.key


def test_a_checkpoint_is_another_behind_another_normalisation(tmp_path):
    known = {
        name: read_checkpoint("lenet5-mnist5k", mean=mean, std=std).identity
        for name, mean, std in (
            ("none", None, None),
            ("one", [0.5], [0.5]),
            ("std", [0.5], [0.25]),
            ("mean", [0.25], [0.5]),
        )
    }
    assert len({canonical(one) for one in known.values()}) == 4
    assert known["std"]["mean"] == known["one"]["mean"]


def test_a_checkpoint_is_another_with_other_code(tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    save_checkpoint(tmp_path / "net.safetensors", network, model="net.py:build")
    found = []
    for activation in ("", ", torch.nn.Tanh()"):
        code = tmp_path / "net.py"
        code.write_text(
            "import torch\n\n\ndef build():\n    return torch.nn.Sequential("
            f"torch.nn.Flatten(), torch.nn.Linear(4, 2){activation})\n"
        )
        found.append(read_checkpoint(tmp_path / "net.safetensors", model=f"{code}:build").identity)
    assert found[0]["weights"] == found[1]["weights"]
    assert found[0]["code"] != found[1]["code"]


def test_weights_are_others_with_another_name_type_or_shape():
    ones = np.ones(6, np.float32)
    states = [
        {"a": ones},
        {"b": ones},
        {"a": ones.reshape(2, 3)},
        {"a": ones.reshape(3, 2)},
        {"a": ones.view(np.int32)},
        {"a": ones, "b": ones},
        {"a": -ones},
    ]
    assert len({weights_digest(state) for state in states}) == len(states)


def test_a_part_of_an_audit_is_done_again_with_other_draws(digits, tmp_path, monkeypatch):
    budget, measured = parse_epsilon("0.1"), []

    def measure(model, images, labels, *_, **__):
        measured.append(len(labels))
        return np.ones((15, 5, len(labels)), bool)

    monkeypatch.setattr("robustkit.corruption.measure", measure)
    request = AuditRequest(
        model=from_checkpoint(read_checkpoint("lenet5-mnist5k")),
        data=digits,
        threat=ThreatModel("linf", budget, (budget,), 0),
        plan=replace(plans.load_plan("quick"), corrupted=20),
        claim=None,
        against={},
        surrogate=None,
        policy=None,
        budget="quick",
        command="",
    )
    settings = StageSettings(tmp_path, RunOptions(device="cpu"), lambda *_: lambda done: None)
    for version, times in (("corruption/1", 1), ("corruption/1", 1), ("corruption/2", 2)):
        monkeypatch.setattr("robustkit.auditing.corruptions.DRAWS", version)
        assert audits._AuditRun(request, settings)._corrupt().mean == 1
        assert measured == [20] * times


# --- classes --------------------------------------------------------------------------------------


def arrays(classes):
    images = torch.arange(4 * 9).view(4, 1, 3, 3) / 36
    return data.from_arrays(images, [0, 1, 2, 0], name="arrays", classes=classes)


def test_an_empty_class_makes_another_data_set():
    three, four, five = (arrays([str(i) for i in range(n)]) for n in (3, 4, 5))
    assert len({one.digest for one in (three, four, five)}) == 3
    assert len({one.take([0, 1]).digest for one in (three, four, five)}) == 3
    assert four.take(range(4)).digest == four.digest


def test_an_empty_folder_makes_another_data_set(tmp_path):
    from PIL import Image

    for number, name in enumerate("bd"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("L", (4, 4), 50 * number).save(tmp_path / "set" / name / "0.png")
    found = [data.load_dataset(str(tmp_path / "set")).digest]
    for name in "eca":  # after, between, before
        (tmp_path / "set" / name).mkdir()
        found.append(data.load_dataset(str(tmp_path / "set")).digest)
    assert len(set(found)) == 4


def test_data_sets_without_empty_classes_keep_the_digests_of_published_records():
    plain = arrays(("a", "b", "c"))
    parts = {"ids": list(plain.ids), "labels": [0, 1, 2, 0], "transform": {}}
    assert plain.digest == digest(canonical(parts))
    assert plain.digest == arrays(("x", "y", "z")).digest, "another format may name them otherwise"
    assert data.load_dataset("mnist5k").digest == (
        "f9c52aaf956d8b6c488040dd4fbf8363df17121d05b9ad0ef401706e34148dec"
    )
