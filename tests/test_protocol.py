from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import protocol as protocols
from robustkit.errors import ProtocolError
from robustkit.files import names

PGD = {"kind": "pgd", "steps": 40, "relative_step": "1/16", "restarts": 5}


def make(*attacks, norm="linf", **more):
    return protocols.parse(
        {"title": "t", "norm": norm, "attack": list(attacks), **more}, "p", "p.toml"
    )


@pytest.mark.parametrize("name", names("attacks"))
def test_every_protocol_on_the_shelf_parses_and_is_not_weak(name):
    protocol = protocols.load(name)
    assert protocol.title
    assert protocol.weaknesses == []
    assert protocol.text


def test_the_usual_attacks_are_there():
    expected = {
        "fgsm",
        "ifgsm",
        "pgd",
        "pgd-margin",
        "mifgsm",
        "deepfool",
        "ddn",
        "cw",
        "noise",
        "pgd-l2",
        "pgd-l1",
    }
    assert expected <= set(names("attacks"))


def test_the_digest_follows_every_number_but_not_the_name():
    base = make(PGD)
    assert (
        base.digest
        == protocols.parse({"title": "u", "norm": "linf", "attack": [PGD]}, "q", "q").digest
    )
    others = [
        make(PGD | {"steps": 41}),
        make(PGD | {"relative_step": "1/8"}),
        make(PGD | {"loss": "margin"}),
        make(PGD, PGD),
        make(PGD, norm="l2"),
        make(PGD, epsilon=["1/10"]),
        make(PGD, target="next"),
    ]
    assert len({p.digest for p in [base, *others]}) == 8


def test_equal_numbers_written_differently_are_the_same_question():
    assert make(PGD, epsilon=["1/10"]).digest == make(PGD, epsilon=["0.1"]).digest


def test_budgets_are_sorted_each_value_once_as_first_written():
    assert [e.text for e in make(PGD, epsilon=["0.3", "1/10", "0.1"]).epsilons] == ["1/10", "0.3"]


@given(st.fractions(min_value=Fraction(1, 10**6), max_value=100))
def test_a_budget_is_exact(value):
    assert protocols.epsilon(f"{value.numerator}/{value.denominator}").value == value


@pytest.mark.parametrize("text", ["0", "-1", "abc", "", "1/0", "nan", "inf", "8/255/2"])
def test_a_senseless_budget_is_an_error(text):
    with pytest.raises(ProtocolError, match="--epsilon"):
        protocols.epsilon(text)


@pytest.mark.parametrize(
    ("attack", "weak"),
    [
        ({"kind": "pgd", "steps": 10, "relative_step": "1/12", "random_start": False}, True),
        ({"kind": "pgd", "steps": 10, "relative_step": "1/10", "random_start": False}, False),
        ({"kind": "pgd", "steps": 10, "relative_step": "1/10"}, True),
        ({"kind": "mifgsm", "steps": 5, "relative_step": "1/10"}, True),
        ({"kind": "fgsm"}, False),
    ],
)
def test_iterations_that_cannot_cross_the_ball_are_called_weak(attack, weak):
    assert bool(make(attack).weaknesses) == weak


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"attack": [PGD], "norm": "l3"}, "norm: unknown value 'l3'"),
        (
            {"attack": [PGD], "norm": "linf", "epsilons": ["1"]},
            "unknown key 'epsilons'; did you mean 'epsilon'",
        ),
        ({"attack": [], "norm": "linf", "epsilon": ["0.1"]}, "attacks nothing"),
        ({"attack": [{"steps": 3}], "norm": "linf"}, "'kind' is missing"),
        ({"attack": [{"kind": "pgdd"}], "norm": "linf"}, "did you mean 'pgd'"),
        ({"attack": [PGD | {"stesp": 3}], "norm": "linf"}, "did you mean 'steps'"),
        ({"attack": [PGD | {"steps": 0}], "norm": "linf"}, "steps must be above 0"),
        ({"attack": [PGD | {"relative_step": 0.1}], "norm": "linf"}, "in quotes"),
        ({"attack": [{"kind": "cw"}], "norm": "linf"}, "has no linf version, only l2"),
        (
            {"attack": [{"kind": "deepfool"}], "norm": "linf", "target": "next"},
            "cannot be targeted",
        ),
        ({"attack": [{"kind": "deepfool", "candidates": 1}], "norm": "linf"}, "at least 2"),
        ({"attack": [PGD], "norm": "linf", "epsilon": ["x"]}, "epsilon"),
    ],
)
def test_a_senseless_protocol_is_one_line(table, message):
    with pytest.raises(ProtocolError) as caught:
        protocols.parse({"title": "t", **table}, "p", "p.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_change_the_attacks_that_have_them():
    protocol = protocols.load(
        "pgd", ["steps=100", "pgd.restarts=2", "relative_step=1/20", "loss=margin"]
    )
    fgsm, pgd = protocol.attacks
    assert (pgd.steps, pgd.restarts, pgd.relative_step) == (100, 2, Fraction(1, 20))
    assert fgsm.loss == pgd.loss == "margin"
    assert protocol.digest != protocols.load("pgd").digest
    assert protocols.load("pgd", ["random_start=false"]).attacks[1].random_start is False


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "expected key=value"),
        ("stpes=3", "did you mean 'steps'"),
        ("steps=x", "expected int"),
        ("steps=0", "above 0"),
        ("fgsm.steps=3", "unknown setting"),
        ("random_start=maybe", "expected bool"),
    ],
)
def test_a_senseless_setting_is_an_error(setting, message):
    with pytest.raises(ProtocolError, match=message):
        protocols.load("pgd", [setting])


def test_attacks_have_names_that_tell_them_apart():
    attacks = make(PGD, PGD | {"loss": "margin"}, PGD | {"steps": 9}, {"kind": "fgsm"}).attacks
    assert protocols.labels_of(attacks) == ("pgd 1", "pgd-margin", "pgd 2", "fgsm")
