"""Sets of corrupted images as they are published."""

import json
import re
from dataclasses import replace
from functools import partial

import jsonschema
import numpy as np
import pytest
import torch
from helpers import schemas
from helpers.evaluations import evaluation
from helpers.travel import load_dataset
from PIL import Image

from robustkit.auditing.cache import Parts
from robustkit.auditing.corruptions import CorruptionRun
from robustkit.auditing.stages import ThreatModel
from robustkit.checkpoint import read_checkpoint
from robustkit.cli.levels import show_all
from robustkit.corruption.published import ALEXNET, tabulate
from robustkit.corruption.tables import NAMES
from robustkit.data.corrupted import asked_levels, find_levels
from robustkit.data.loading import corruption_splits
from robustkit.data.pipeline import Pipeline
from robustkit.errors import DataError
from robustkit.evaluation import from_checkpoint
from robustkit.protocol import parse_epsilon
from robustkit.reporting.wording import interval

N = 12
LABELS = np.arange(N) % 3


def drawn(severity, count=N):
    """Images of N, from which the original and the severity can be read."""
    images = np.zeros((count, 3, 4, 4), np.uint8)
    images[:, 0] = 10 * np.arange(count)[:, None, None] + 100
    images[:, 1] = severity
    return images


def seen(data):
    """Which originals a level has, in its order, and the severities that they are of."""
    block = np.rint(data.images(0, len(data)) * 255).astype(int)
    return ((block[:, 0, 0, 0] - 100) // 10).tolist(), set(block[:, 1, 0, 0].tolist())


def one_line(match):
    return pytest.raises(DataError, match=rf"\A[^\n]*(?:{match})[^\n]*\Z")


def stacks(folder, labels=None, severities=5, names=("fog", "gaussian_noise")):
    """As CIFAR-10-C."""
    folder.mkdir(exist_ok=True)
    whole = np.concatenate([drawn(s) for s in range(1, severities + 1)])
    for name in names:
        np.save(folder / f"{name}.npy", whole.transpose(0, 2, 3, 1))
    labels = np.tile(LABELS, severities) if labels is None else labels
    np.save(folder / "labels.npy", labels.astype(np.uint8))


def tree(folder, kind=""):
    """As ImageNet-C."""
    for name in ("fog", "snow"):
        for severity in (1, 3):
            for row, image in enumerate(drawn(severity + 10 * (name == "snow"))):
                place = folder / kind / name / str(severity) / f"class{LABELS[row]}"
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{row:03}.png")


def test_stacks_have_a_split_for_every_corruption_and_severity(tmp_path):
    stacks(tmp_path)
    assert corruption_splits(str(tmp_path), "test") == [
        f"{name}-{s}" for name in ("fog", "gaussian-noise") for s in range(1, 6)
    ]
    assert corruption_splits(str(tmp_path), "gaussian_noise")[1] == "gaussian-noise-2"
    assert corruption_splits(str(tmp_path), "fog-3") == ["fog-3"]
    data = load_dataset(str(tmp_path), split="gaussian-noise-4")
    assert seen(data) == (list(range(N)), {4})
    assert data.labels.tolist() == LABELS.tolist()
    assert (data.split, data.source["corruption"]) == ("gaussian-noise-4", "gaussian-noise")
    assert (data.source["severity"], data.source["rows"]) == (4, [3 * N, 4 * N])
    assert set(data.source["sha256"]) == {"gaussian_noise.npy", "labels.npy"}
    assert len(load_dataset(str(tmp_path), split="fog-5", limit=2)) == 2


@pytest.mark.parametrize(
    ("labels", "severities", "splits"),
    [
        (LABELS, 5, 5),  # those of one severity, for all of them
        (LABELS, 2, 2),
        (LABELS, 1, 1),
        (np.arange(60) % 7, 5, 1),  # labels that do not repeat are of one severity
    ],
)
def test_how_often_labels_repeat_is_how_many_severities_there_are(
    tmp_path, labels, severities, splits
):
    stacks(tmp_path, labels, severities, names=["fog"])
    found = find_levels(tmp_path)
    assert list(found) == (["fog"] if splits == 1 else [f"fog-{n + 1}" for n in range(splits)])
    whole = N * severities // splits
    assert all(len(load_dataset(str(tmp_path), split=split)) == whole for split in found)


@pytest.mark.parametrize("kind", ["", "weather"])
def test_folders_keep_one_order_over_all_levels_so_that_rows_are_pairs(tmp_path, kind):
    tree(tmp_path, kind)
    splits = corruption_splits(str(tmp_path), "all")
    assert splits == ["fog-1", "fog-3", "snow-1", "snow-3"]
    orders = [seen(load_dataset(str(tmp_path), split=split, limit=9)) for split in splits]
    first, *others = [order for order, _ in orders]
    assert others == [first] * 3
    assert first != sorted(first)  # a fair sample, though the folders are sorted by class
    assert [kinds for _, kinds in orders] == [{1}, {3}, {11}, {13}]
    data = load_dataset(str(tmp_path), split="snow-3")
    assert data.classes == ("class0", "class1", "class2")
    assert data.labels.tolist() == [LABELS[row] for row in seen(data)[0]]


def test_a_set_of_one_severity_has_a_split_for_every_corruption(tmp_path):
    for number, name in enumerate(("identity", "fog", "dotted_line")):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "test_images.npy", drawn(number)[:, :1].transpose(0, 2, 3, 1))
        np.save(tmp_path / name / "test_labels.npy", np.sort(LABELS))
        np.save(tmp_path / name / "train_images.npy", drawn(7))
    assert list(find_levels(tmp_path)) == ["dotted-line", "fog", "identity"]
    one, other = (load_dataset(str(tmp_path), split=s, limit=5) for s in ("fog", "dotted-line"))
    rows = [np.rint(data.images(0, 5)[:, 0, 0, 0] * 255).tolist() for data in (one, other)]
    assert rows[0] == rows[1] != sorted(rows[0])
    assert one.source["severity"] is None


def test_other_folders_are_no_sets_of_corrupted_images(tmp_path):
    for place in ("train/1", "train/2", "test/1", "test/2"):
        (tmp_path / "own" / place).mkdir(parents=True)
        Image.fromarray(drawn(1)[0].transpose(1, 2, 0)).save(tmp_path / "own" / place / "a.png")
    assert find_levels(tmp_path / "own") == {}
    assert len(load_dataset(str(tmp_path / "own"))) == 2
    (tmp_path / "pair").mkdir()
    np.save(tmp_path / "pair" / "images.npy", drawn(1))
    np.save(tmp_path / "pair" / "labels.npy", LABELS)
    assert find_levels(tmp_path / "pair") == {}
    assert len(load_dataset(str(tmp_path / "pair"))) == N
    assert corruption_splits("mnist5k", "test") == []
    assert asked_levels({}, "test") == []


GRADES = ("1", "2", "3", "4", "5")


@pytest.mark.parametrize(
    ("levels", "split", "classes"),
    [
        (["train/{}/patientA", "test/{}/patientA"], "test", GRADES),
        (["Validation/{}/patientA"], "val", GRADES),
        (["test/lesion/{}/a{}", "test/nevus/{}/b{}"], "test", ("lesion", "nevus")),
        (["scan/{}/patient{}", "slide/{}/patient{}"], "all", ("scan", "slide")),
        (["{}/patientA", "{}/patientB"], "all", GRADES),
    ],
)
def test_classes_called_by_numbers_with_folders_in_them_are_no_severities(
    tmp_path, levels, split, classes
):
    """Grades of a disease, with a folder a patient."""
    for place, level in enumerate(levels):
        for grade in range(1, 6):
            folder = tmp_path / level.format(grade, grade)
            folder.mkdir(parents=True)
            image = drawn(grade + 10 * place)[place].transpose(1, 2, 0)
            Image.fromarray(image).save(folder / "x.png")
    assert find_levels(tmp_path) == {}
    assert corruption_splits(str(tmp_path), split) == []
    data = load_dataset(str(tmp_path), split=split)
    assert data.classes == classes


def test_a_kind_of_corruptions_that_is_called_extra_is_one(tmp_path):
    """As ImageNet-C has it, among blur, digital, noise and weather."""
    tree(tmp_path, "extra")
    assert list(find_levels(tmp_path)) == ["fog-1", "fog-3", "snow-1", "snow-3"]


def too_few(folder):
    stacks(folder, np.arange(7))


def objects(folder):
    stacks(folder)
    np.save(folder / "fog.npy", np.array([print], object))


@pytest.mark.parametrize(
    ("make", "split", "message"),
    [
        (
            stacks,
            "test",
            "no split 'test'; the splits of these corrupted images are fog-1, .*; name one of them",
        ),
        (stacks, "fog-6", "no split 'fog-6'"),
        (tree, "fog-2", "no split 'fog-2'; .* fog-1, fog-3, snow-1, snow-3"),
        (too_few, "fog-1", "fog.npy: 60 images but 7 labels in labels.npy"),
        (objects, "fog-1", "fog.npy: contains Python objects"),
    ],
)
def test_a_set_that_makes_no_sense_is_one_line(tmp_path, make, split, message):
    make(tmp_path)
    with one_line(message):
        load_dataset(str(tmp_path), split=split)


# accuracy


def level(name, severity, wrong, classes=1000):
    """The evaluation of 200 images, of which so many are wrong."""
    found = evaluation(n=200, epsilons=["0.1"], classes=list(map(str, range(classes))))
    fooled = ["0"] * wrong + [None] * (200 - wrong)
    column = found.table.schema.get_field_index("fooled_at")
    table = found.table.set_column(column, "fooled_at", [fooled])
    source = {"corruption": name, "severity": severity}
    data = found.header["data"] | {"source": source, "shape": [3, 224, 224]}
    return replace(found, table=table, header={**found.header, "data": data})


OF_A_LIBRARY = Pipeline(
    library="torchvision 0",
    processor="ImageClassification",
    resize=256,
    interpolation="bilinear",
    by="Pillow",
    crop=(224, 224),
    centre="rounded",
    upright=False,
)


@pytest.mark.parametrize(
    ("size", "changes", "options", "kept"),
    [
        (224, {}, {}, None),
        (224, {"resize": (256, 256), "fit": "cover", "by": "torch"}, {}, None),
        (224, {"resize": (224, 224), "crop": None}, {}, None),
        (224, {}, {"resize": 256}, 256),
        (64, {}, {}, 256),
        (224, {"crop": (256, 256)}, {}, 256),
    ],
)
def test_images_of_a_level_that_have_the_size_of_the_crop_are_not_resized(
    size, changes, options, kept, tmp_path
):
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    for severity in ("1", "2"):
        place = tmp_path / "fog" / severity / "n01440764"
        place.mkdir(parents=True)
        Image.fromarray(pixels).save(place / "a.png")
    pipeline = replace(OF_A_LIBRARY, **changes)
    found = load_dataset(tmp_path, split="fog-1", pipeline=pipeline, **options)
    assert found.transform["pipeline"]["resize"] == kept
    assert ("not resized, as they are published" in " ".join(found.notes)) == (kept is None)
    if kept is None:
        assert np.array_equal(found.images(0, 1)[0], pixels.transpose(2, 0, 1) / np.float32(255))
    else:
        assert found.digest != load_dataset(tmp_path, split="fog-1").digest
    other = load_dataset(tmp_path / "fog" / "1", pipeline=pipeline, split="all")
    same = pipeline.resize == (size, size)  # which changes no image
    assert other.transform["pipeline"]["resize"] == (None if same else pipeline.resize)


@pytest.mark.parametrize(
    "made",
    [
        {"transform": {"resize": 256}},
        {"transform": {"pipeline": {"resize": [235, 235]}}},
        {"transform": {"crop": 192}, "shape": [3, 192, 192]},
    ],
)
def test_images_made_otherwise_have_no_mean_corruption_error(made, capsys):
    records = at_levels(NAMES)
    resized = [
        replace(one, header=one.header | {"data": one.header["data"] | made}) for one in records
    ]
    assert tabulate(records).mce is not None
    assert tabulate([*records[1:], resized[0]]).mce is None
    show_all(resized, "wilson")
    said = " ".join(capsys.readouterr().out.split())
    assert "no mean corruption error (mCE): images were resized" in said


@pytest.mark.thorough
def test_the_mean_corruption_error_divides_by_alexnets_over_the_fifteen():
    wrong = {name: 10 * (n + 1) for n, name in enumerate(NAMES)}
    records = [level(name, s, wrong[name] + s) for name in NAMES for s in range(1, 6)]
    records.append(level("saturate", 1, 200))
    found = tabulate(records)
    errors = {name: (wrong[name] + 3) / 200 for name in NAMES}
    assert found.mean_error == pytest.approx(sum(errors.values()) / 15)
    assert found.mce == pytest.approx(sum(errors[n] / ALEXNET[n] for n in NAMES) / 15)
    assert list(found.rows) == [*NAMES, "saturate"]
    assert found.rows["fog"][2].value == 1 - (wrong["fog"] + 2) / 200
    assert tabulate(records[1:]).mce is None
    assert tabulate([level("fog", s, 20, classes=10) for s in range(1, 6)]).mce is None


def test_unlike_severities_have_no_mean():
    found = tabulate([level("fog", 1, 0), *(level("snow", s, 100) for s in range(1, 6))])
    assert found.mean_error is None
    assert found.error("snow") == 0.5


def test_clean_images_are_no_corruption():
    found = tabulate(
        [level("identity", None, 0), level("fog", None, 50), level("zigzag", None, 30)]
    )
    assert found.mean_error == pytest.approx(0.2)
    assert list(found.rows) == ["identity", "fog", "zigzag"]


def test_all_levels_are_evaluated_by_one_command_and_each_is_on_record(robustkit, tmp_path):
    digits = load_dataset("mnist5k", limit=20)
    pixels = np.rint(digits.images(0, 20) * 255).astype(np.uint8)
    (tmp_path / "C").mkdir()
    inverted = np.concatenate([255 - pixels[:5], pixels[5:]])
    np.save(tmp_path / "C" / "fog.npy", np.concatenate([pixels, inverted]))
    np.save(tmp_path / "C" / "labels.npy", digits.labels)
    asked = ("evaluate", "lenet5-mnist5k", "--data", "C", "--attack", "clean", "--json", "a.json")
    status, out, err = robustkit(*asked, "--limit", "10")
    assert (status, err) == (0, "")
    first, second = json.loads((tmp_path / "a.json").read_text())
    assert [(r["data"]["split"], r["data"]["severity"]) for r in (first, second)] == [
        ("fog-1", 1),
        ("fog-2", 2),
    ]
    one, other = (r["clean"]["accuracy"] for r in (first, second))
    assert one > 0.8 > other
    shares = " ".join(f"{100 * share:.1f}\u00a0%" for share in (one, other, (one + other) / 2))
    assert f"fog {shares}" in " ".join(re.findall("[^│ ]+", out))
    assert "records: 2 in runs" in out
    status, out, err = robustkit("evaluate", "none.pt", *asked[2:])
    assert (status, len(err.splitlines())) == (2, 1)
    status, out, err = robustkit(*asked, "--save-adversarial", "x.npz")
    assert (status, "as --split fog-3" in err) == (2, True)
    for record in (first, second):
        record["robust"] = [record["clean"] | {"epsilon": "0.1", "epsilon_value": 0.1}]
    jsonschema.validate([first, second], schemas.EVALUATIONS)


def at_levels(names, **protocol):
    """Evaluations at five severities of each corruption, as if by a protocol."""
    one = level("fog", 1, 20)
    header = one.header | {"protocol": one.header["protocol"] | protocol}
    sources = [{"corruption": name, "severity": s} for name in names for s in range(1, 6)]
    data = [header["data"] | {"source": source} for source in sources]
    return [replace(one, header=header | {"data": entry}) for entry in data]


def test_errors_under_attack_are_not_divided_by_those_of_a_network_without(capsys):
    show_all(at_levels(NAMES), "wilson")
    clean, attacked = capsys.readouterr().out.split("pgd (ℓ∞, ε = 0.1)")
    assert "mean corruption error (mCE)" in clean
    assert "mCE" not in attacked
    assert "over 15 corruptions" in clean.replace("\n", " ")
    assert "over 15 corruptions" in attacked.replace("\n", " ")


def test_levels_are_headed_by_the_attack_with_its_target_and_norm(capsys):
    resolved = evaluation(n=2).header["protocol"]["resolved"] | {"target": "next"}
    show_all(at_levels(["fog"], norm="l2", resolved=resolved), "wilson")
    out = capsys.readouterr().out
    assert "on mnist5k (200 images per level), pgd towards next (ℓ₂, ε = 0.1): " in out


@pytest.mark.parametrize("method", ["wilson", "exact"])
def test_accuracies_of_levels_have_the_interval_that_is_asked_for(capsys, monkeypatch, method):
    monkeypatch.setenv("COLUMNS", "200")
    levels = at_levels(["fog", "elastic-transform"])
    show_all(levels, method)
    out = capsys.readouterr().out
    for level in levels:
        for found in (level.clean(method), level.robust(method)[0].accuracy):
            assert interval(found) in out
    # in 80 columns names and numbers stay whole
    monkeypatch.setenv("COLUMNS", "80")
    show_all(levels, method)
    out = capsys.readouterr().out
    assert "elastic-transform" in out
    assert max(len(line) for line in out.splitlines() if line[0] in "┏│") <= 80
    assert "…" not in out


def audited(tmp_path, changed):
    """An audit's part of corruptions, the network, and the levels: 20 images of each change."""
    for name, pixels in changed.items():
        (tmp_path / "C" / name).mkdir(parents=True)
        np.save(tmp_path / "C" / name / "test_images.npy", pixels)
        np.save(tmp_path / "C" / name / "test_labels.npy", load_dataset("mnist5k", limit=30).labels)
    levels = [
        partial(load_dataset, str(tmp_path / "C"), split=split, limit=20)
        for split in corruption_splits(str(tmp_path / "C"), "all")
    ]
    model, budget = from_checkpoint(read_checkpoint("lenet5-mnist5k")), parse_epsilon("0.1")
    network = model.load(torch.device("cpu"))
    threat = ThreatModel("linf", budget, (budget,), 0)
    run = CorruptionRun(
        model=lambda: network,
        parts=Parts(tmp_path / "work", model, threat, torch.device("cpu"), None),
        batch_size=7,
        device=torch.device("cpu"),
        seed=0,
        begin=lambda title, count: lambda done: None,
        over=lambda: False,
    )
    return run, network, levels


@pytest.mark.thorough
def test_an_audit_takes_published_corruptions_and_keeps_each_level(tmp_path):
    digits = load_dataset("mnist5k", limit=30)
    pixels = np.rint(digits.images(0, 30) * 255).astype(np.uint8)
    changed = {"identity": pixels, "saturate": pixels // 3, "fog": 255 - pixels}
    run, network, levels = audited(tmp_path, changed)
    sources: dict[str, str] = {}
    found = run.published(levels, sources)
    assert [(row.name, row.group) for row in found.rows] == [
        ("fog", "weather"),
        ("identity", "other"),
        ("saturate", "other"),
    ]
    shares = {row.name: row.severities[0].value for row in found.rows}
    for name, share in shares.items():
        images = np.load(tmp_path / "C" / name / "test_images.npy")[:20]
        right = network(torch.from_numpy(images) / 255).argmax(1).numpy() == digits.labels[:20]
        assert share == right.mean()
    assert found.mean == pytest.approx((shares["fog"] + shares["saturate"]) / 2)
    assert found.n == 20
    files = {f"{name}/test_{kind}.npy" for name in shares for kind in ("images", "labels")}
    assert set(sources) == {"fog", "identity", "saturate", *files}
    assert len(list((tmp_path / "work").glob("corruptions-*.json"))) == 3
    refusing = replace(run, model=lambda: pytest.fail("done twice"))
    assert refusing.published(levels, {}) == found


@pytest.mark.thorough
def test_an_audits_mean_is_over_the_fifteen_as_an_evaluations_is(tmp_path):
    digits = load_dataset("mnist5k", limit=30)
    pixels = np.rint(digits.images(0, 30) * 255).astype(np.uint8)
    changed = {name: pixels // (1 + n) for n, name in enumerate(NAMES)}
    run, _, levels = audited(tmp_path, changed | {"saturate": 255 - pixels, "spatter": 0 * pixels})
    found = run.published(levels, {})
    by_name = {row.name: row.severities[0].value for row in found.rows}
    assert found.mean == pytest.approx(np.mean([by_name[name] for name in NAMES]))
    assert found.mean != pytest.approx(np.mean(list(by_name.values())))
    assert "The mean is over the benchmark's fifteen, without saturate, spatter." in found.notes
    assert [row.group for row in found.rows][-3:] == ["digital", "other", "other"]


def test_an_audit_refuses_what_is_no_set_of_corrupted_images(robustkit, tmp_path):
    (tmp_path / "own").mkdir()
    status, out, err = robustkit("audit", "lenet5-mnist5k", "--corruptions", "own")
    assert (status, out) == (2, "")
    assert err.startswith("robustkit: error: --corruptions own: no set of corrupted images")
