import json

import jsonschema
import numpy as np
import pytest
from helpers import schemas
from helpers.evaluations import evaluation
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit import summary
from robustkit.protocol import parse_epsilon
from robustkit.record import Evaluation, table
from robustkit.statistics import proportion


def with_rows(
    fooled_at: list[str | None],
    distance: list[float | None],
    fooled_by: list[str | None],
    labels: list[int] | None = None,
) -> Evaluation:
    """An evaluation at ε = 0.1, 0.2, 0.3 with exactly these rows."""
    n = len(fooled_at)
    columns = {
        "sample": [str(i) for i in range(n)],
        "index": range(n),
        "label": labels or [0] * n,
        "predicted": [0] * n,
        "fooled_at": fooled_at,
        "distance": distance,
        "fooled_by": fooled_by,
        "fooled_as": [None] * len(fooled_by),
    }
    model = evaluation(n=n)
    return Evaluation(model.header, model.run, table(columns))


ROWS = with_rows(
    ["0", "0.1", "0.2", "0.2", None, None],
    [0.0, 0.08, 0.15, 0.12, 0.45, None],
    ["clean", "fgsm", "pgd", "pgd", "pgd", None],
    labels=[0, 0, 0, 1, 1, 1],
)


def valid(objects: list[dict]) -> bool:
    validator = jsonschema.Draft202012Validator(schemas.EVALUATIONS)
    # through JSON, as a reader gets it; NaN would not survive
    return validator.is_valid(json.loads(json.dumps(objects, allow_nan=False)))


def test_accuracies_count_all_images_and_clean_mistakes_as_wrong():
    result = summary.summarise(ROWS)
    assert result["clean"]["accuracy"] == 5 / 6
    assert [p["accuracy"] for p in result["robust"]] == [4 / 6, 2 / 6, 2 / 6]
    assert {p["n"] for p in result["robust"]} == {6}


def test_passes_are_means_an_image_by_attack_and_unknown_in_older_records():
    made = evaluation(n=40)
    forward = np.array(made.table["forward"].to_pylist())
    found = summary.summarise(made)["passes"]
    assert found["forward"] == pytest.approx(forward.sum(1).mean())
    assert list(found["by_attack"]) == ["clean", "fgsm", "pgd"]
    assert found["by_attack"]["pgd"]["forward"] == pytest.approx(forward[:, 2].mean())
    assert summary.summarise(ROWS)["passes"] is None
    assert valid([summary.summarise(made), summary.summarise(ROWS)])


def test_robust_accuracy_falls_as_the_cost_of_each_fooled_image_is_spent():
    columns = with_rows(
        ["0", "0.1", "0.2", "0.2", None], [0.0, 0.1, 0.2, 0.2, None], 4 * ["clean"] + [None]
    )
    passes = {
        "forward": [[1, 0, 0], [1, 2, 0], [1, 4, 8], [1, 2, 0], [1, 9, 30]],
        "backward": [[0, 0, 0], [0, 1, 0], [0, 0, 3], [0, 1, 0], [0, 9, 30]],
    }
    made = Evaluation(columns.header, columns.run, table(columns.table.to_pydict() | passes))
    x, y = summary.accuracy_by_passes(made, parse_epsilon("0.2"))
    assert x.tolist() == [1, 1, 5, 19, 118]
    assert y == pytest.approx([1, 0.8, 0.4, 0.2, 0.2])
    assert y[-1] == made.robust()[1].accuracy.value
    assert summary.accuracy_by_passes(columns, parse_epsilon("0.2")) is None


def test_budgets_stand_as_written_and_by_rising_value():
    result = summary.summarise(evaluation(epsilons=["16/255", "2/255", "0.01"]))
    assert [p["epsilon"] for p in result["robust"]] == ["2/255", "0.01", "16/255"]
    assert [p["epsilon_value"] for p in result["robust"]] == [2 / 255, 0.01, 16 / 255]


@pytest.mark.parametrize("method", ["wilson", "exact"])
def test_intervals_are_of_the_method_asked_for(method):
    result = summary.summarise(ROWS, method)
    expected = proportion(5, 6, method)
    assert (result["clean"]["low"], result["clean"]["high"]) == (expected.low, expected.high)
    assert result["interval"] == expected.method


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 99),
    strength=st.floats(0.001, 10),
    budgets=st.lists(st.integers(1, 100), min_size=1, max_size=5, unique=True),
)
def test_every_summary_fits_the_schema_and_falls_with_the_budget(n, seed, strength, budgets):
    texts = [f"{b}/255" for b in budgets]
    result = summary.summarise(evaluation(n=n, seed=seed, strength=strength, epsilons=texts))
    assert valid([result])
    shares = [result["clean"]["accuracy"], *(p["accuracy"] for p in result["robust"])]
    assert shares == sorted(shares, reverse=True)


def test_unknown_facts_of_a_checkpoint_are_null():
    unknown = dict.fromkeys(
        ["sha256", "weights", "model", "loss", "label_noise", "data_fraction", "seed"]
    )
    result = summary.summarise(evaluation("net.pt", checkpoint=unknown))
    assert result["checkpoint"] == {"path": "net.pt", **unknown}
    assert valid([result])


def test_a_transfer_attack_is_told_from_one_on_the_network_itself():
    assert summary.summarise(ROWS)["surrogate"] is None
    surrogate = {"surrogate": {"path": "other.pt", "weights": "ab12", "model": "lenet5"}}
    found = summary.summarise(Evaluation(ROWS.header | surrogate, ROWS.run, ROWS.table))
    assert found["surrogate"] == {"path": "other.pt", "weights": "ab12"}
    assert valid([found])
    found["surrogate"] = "other.pt"
    assert not valid([found])


def test_a_failure_has_the_keys_of_a_success_and_no_numbers():
    failed, complete = summary.failure("net.pt", "truncated file"), summary.summarise(ROWS)
    assert (failed["status"], failed["error"]) == ("failed", "truncated file")
    assert failed.keys() == complete.keys()
    for part in ("checkpoint", "data", "protocol", "clean"):
        assert failed[part].keys() == complete[part].keys()
    assert not any(failed["clean"].values())
    assert valid([failed, complete])


def test_the_schema_describes_every_key_that_is_written():
    definitions, result = schemas.EVALUATIONS["$defs"], summary.summarise(ROWS)
    assert definitions["evaluation"]["properties"].keys() == result.keys()
    assert set(definitions["evaluation"]["required"]) == result.keys()
    for part in ("checkpoint", "data", "protocol"):
        assert definitions[part]["properties"].keys() == result[part].keys()
    jsonschema.Draft202012Validator.check_schema(schemas.EVALUATIONS)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "failed"},
        {"status": "odd"},
        {"schema": "robustkit.evaluation/2"},
        {"error": "but complete"},
        {"clean": {"accuracy": 1.5, "low": 0, "high": 1, "n": 6}},
        {"clean": {"accuracy": None, "low": None, "high": None, "n": None}},
        {"robust": [{"epsilon": "0.1", "accuracy": 0.5, "low": 0, "high": 1, "n": 6}]},
        {"robust": []},
    ],
)
def test_the_schema_refuses_what_contradicts_itself(change):
    assert not valid([summary.summarise(ROWS) | change])


def test_found_by_counts_only_images_fooled_within_the_budgets():
    assert summary.found_by(ROWS) == {"clean": 1, "fgsm": 1, "pgd": 2}


def test_an_attack_that_found_nothing_is_listed_with_zero():
    rows = with_rows(["0.1", None], [0.1, None], ["pgd", None])
    assert summary.found_by(rows) == {"clean": 0, "fgsm": 0, "pgd": 1}


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([0.1, 0.3, 0.2], 0.2),
        ([0.1, 0.3, 0.2, 0.4], 0.2),
        ([0.1, 0.2, None], 0.2),
        ([0.1, None, None], None),
        ([0.1, None], 0.1),
        ([None], None),
    ],
)
def test_the_median_distance_takes_images_that_nothing_fooled_as_beyond_all(distances, expected):
    at = [None if d is None else "0.3" for d in distances]
    by = [None if d is None else "pgd" for d in distances]
    assert summary.median_distance(with_rows(at, distances, by)) == expected
    # clean mistakes are not perturbed, so they do not count
    more = with_rows(["0", *at], [0.0, *distances], ["clean", *by])
    assert summary.median_distance(more) == expected


@pytest.mark.parametrize(
    ("rows", "expected", "hidden"),
    [
        ([0.1, 0.3, "0.3"], 0.3, False),
        ([0.1, 0.5, "0.3"], None, True),
        ([0.1, 0.2, 0.5, "0.3"], 0.2, False),
        ([0.1, "0.3", "0.3"], None, True),
        ([0.1, "0.1", "0.2"], None, False),  # attacked at 0.3, and nothing was found
        ([0.1, 0.5, "0.2"], 0.5, False),
        ([None, None, "0.3"], None, False),
        ([None, "0.3", "0.3"], None, True),
        (["0.3"], None, True),
    ],
)
def test_the_median_distance_is_unknown_where_it_hangs_on_images_that_proofs_kept_unattacked(
    rows, expected, hidden
):
    """A text is the budget at which an image was proved."""
    distances = [None if isinstance(row, str) else row for row in rows]
    at = [None if d is None or d > 0.3 else "0.3" for d in distances]
    found = with_rows(at, distances, [None if d is None else "fab" for d in distances])
    proved = {"certified_at": [row if isinstance(row, str) else None for row in rows]}
    whole = table(found.table.to_pydict() | proved)
    header, protocol = found.header | {"prove": {"on": True}}, found.header["protocol"]
    attacks = [*protocol["resolved"]["attacks"], {"kind": "fab"}]
    with_fab = {"protocol": protocol | {"resolved": protocol["resolved"] | {"attacks": attacks}}}
    one = Evaluation(header | with_fab, found.run, whole)
    assert (summary.median_distance(one), summary.median_is_hidden(one)) == (expected, hidden)
    # attacks that find nothing beyond the budgets have not missed anything there
    inside = Evaluation(header, found.run, whole)
    assert not summary.median_is_hidden(inside)


def test_the_median_distance_is_unknown_where_every_image_is_a_clean_mistake():
    assert summary.median_distance(with_rows(["0"], [0.0], ["clean"])) is None


def test_accuracy_per_class_splits_the_images_by_label():
    zero, one = summary.class_accuracy(ROWS, parse_epsilon("0.1"))
    assert (zero.name, zero.clean.value, zero.robust.value) == ("0", 2 / 3, 1 / 3)
    assert (one.name, one.clean.value, one.robust.value) == ("1", 1.0, 1.0)


def test_classes_without_images_or_names_do_no_harm():
    rows = with_rows(["0.1", None], [0.1, None], ["pgd", None], labels=[3, 12])
    assert [c.name for c in summary.class_accuracy(rows, parse_epsilon("0.1"))] == ["3", "12"]


def test_the_reference_is_the_middle_budget():
    texts = ["0.1", "0.2", "0.3", "0.4"]
    for count, expected in [(1, "0.1"), (2, "0.2"), (3, "0.2"), (4, "0.3")]:
        points = summary.robust_points(evaluation(epsilons=texts[:count]))
        assert summary.reference(points).epsilon.text == expected


def test_the_class_counts_add_up_to_the_whole():
    record = evaluation(n=137)
    classes = summary.class_accuracy(record, record.epsilons[1])
    right = sum(round(c.robust.value * c.robust.n) for c in classes)
    assert right == int(np.sum(record.broken_at > float(record.epsilons[1])))
    assert sum(c.clean.n for c in classes) == 137
