import tomllib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import attacks
from robustkit import protocol as protocols
from robustkit.errors import ProtocolError
from robustkit.files import names

PGD = {"kind": "pgd", "steps": 40, "relative_step": "1/16", "restarts": 5}


def make(*attacks, norm="linf", **more):
    return protocols.parse_protocol(
        {"title": "t", "norm": norm, "attack": list(attacks), **more}, "p", "p.toml"
    )


SHELF = [(name, norm) for name in names("attacks") for norm in protocols.norms_of(name)]
PUBLISHED = """
autoattack         linf d8e35d7d972d669a39cad244fc976959bfe25f277c288a7d0e187d856554cc10
autoattack-l1      l1   99adc5b6475aa759a7aaa73734d78699f17b6a4eb6224e80ed49f41744a6dddb
autoattack-l2      l2   8882be56aaf6ebbfc1f427a3d7346edb8ab4534a4fa1defc2bdc5a33c68c3b91
autoattack-plus    linf 63ab2db46efff75f6d7384be5608499b58cb4ab041e937297568ac99e5480dde
autoattack-plus-l2 l2   967ea88643ed16a285aea6e67dfa22c7138f643464b8da8675bb1a2b6436e7f7
autoattack-rand    linf aeac446baa48b895e2a8c1a0c0ab704ec68cf2920eea6afbcbf11053dfb8edf6
autoattack-rand-l2 l2   27fc462e118b2356227b4411a2c16774f51529dec50880f406abf1306ac2f829
boundary           l2   e5ce55bc8194353086beb31395a6139da732e056e615b0bfc266d5c1680b9345
clean              linf 0fdc1672ad17e96c60f314c640c8e7b12826c891b2b14a58e0e7ad40c4db40fc
cw                 l2   227ab7c86933cf03ff43bda690ee6d70c276a4e73ff5e08bc70c50c33073996b
ddn                l2   07fb682544ed92dc21789d950a9533cda2bb7d33d7837f5505166606a6395b66
deepfool           linf 7836023421c97577b219ea8c4193ccca17ba62a343e4f683594504b976a6947e
deepfool-l2        l2   7ddf6453b06a5ca4c749d219d347e10004a05c19c717f3b1729f10d50567817b
fgsm               linf 83734b7956f61a84a77dac1ffcbb16055c922e0a268f3826ab6ab43912f43108
fgsm-l1            l1   1b9752d737a69f487a913d73db6d833711ebadb3085683d6fe7301e142c61ad9
fgsm-l2            l2   40adb0e6e73204e03a573c1b579d1a702457fa2537fdbcd225fbcfe86eb18360
fmn                linf b9a450f5baad2853db8ea12d14bf31cb7ae1e90d7d2d48603e27d96572e6890b
fmn-l1             l1   9acb91e3aaf2dd5af4a826dd0fc1299402307eca659370e3ea1ae765e30749d0
fmn-l2             l2   527529c1801bd58795722aa0576f42b284376a084c088965fb80e7ecc5b0cf62
hopskipjump        l2   46bac5ccde039934a354ff7868b34cc61b97911b03a14b0c801417225c8d842a
hopskipjump-linf   linf 24b92220d76ae8755d39216fc5e36279f5a29222151d990d56b422d93d6053b6
ifgsm              linf 54d32e694a23fbf0896ce16865d9334fe29e7d83096a1cc193a048d92cfa2651
ifgsm-l2           l2   c142c3768ca8580d1c8b157534cb86abaf7ce3ef08f1622503151790c168c808
losses             linf aa9b3ce441e0baf62c429f74e6ad1757bf6f248e60c4b95e63212861b84763ba
losses-l1          l1   2a77fcac706fe8c801ceffbfd3447aa7912facbe4f02a079fb01a588a7138e8e
losses-l2          l2   9659d94f4e692e99c3f058d661a24d991d3dba0bab0ad1ebfd8debefd187aa4c
mifgsm             linf 79e476a734de3f78da4968a3c383e9fd2b2a9a884798b505dc40b96ee076a7b6
noise              linf 2881998bd3194ca05f32c402859ac13e0a17638d2781296c91f31e9887c23efc
noise-l2           l2   b81bd42669df02342357ad71960418a968a89bea0f04368c8bf60696eb1f70ac
pgd                linf f9b1ab27b3931c17786e5e2f49a288c2e94be163f13e6cee5daa551919ff31cd
pgd-l1             l1   27591a3c9f9c9a6a6d502cbba9df9f1b3e877805d62879063cfa06390b50006f
pgd-l2             l2   c1c693445ae8f7c775f9d50c23e9200b7498cd2f77e2dc03c9ef6b5d0a66f038
pgd-margin         linf eed627bf744b3921f3b50b025aa0f9e26f7c2d7535dd52a8277940a1e0c553cf
random-search      linf 6d1a22971ba1baf0a874dec22cf03479b871b807f5e9fbed46a6170b2e49bc03
random-search-l1   l1   cf94151380cbd9157af4df28be2a86b0e43ba018b5766371a4604969fe420668
random-search-l2   l2   1777d567ba535431c8a34e6f33092cc34558ae62651058714ab93a6a77e79d2a
square             linf 63ff1c1f5563ee407c62e21008e4a1ef2bbfc94b38e887f64a53539155ffb1d9
square-l1          l1   03ce72f4d782bd0257db6d4566b96d99b5f39583ecfc82896b36c09cdff44b1e
square-l2          l2   7effd9424d458381f5564aca1348828319736163d7fb0982cf0e75e43300a798
"""
"""names under which protocols were published, when each had one norm, that norm, and the digest"""
ROWS = [
    (old, old.removesuffix(f"-{norm}"), norm, digest)
    for old, norm, digest in (line.split() for line in PUBLISHED.strip().splitlines())
]


@pytest.mark.parametrize(("name", "norm"), SHELF)
def test_every_protocol_on_the_shelf_parses_in_each_of_its_norms_and_is_not_weak(name, norm):
    protocol = protocols.load_protocol(name, norm=norm)
    assert protocol.norm == norm
    assert protocol.title
    assert protocol.weaknesses == []
    assert f"\n{protocol.text}".count("\nnorm") == 1


@pytest.mark.parametrize(("old", "name", "norm", "digest"), ROWS)
def test_a_protocol_has_the_digest_under_which_it_was_published(old, name, norm, digest):
    assert protocols.load_protocol(name, norm=norm).digest == digest
    if old != name:
        with pytest.raises(ProtocolError, match=f"did you mean --attack {name} --norm {norm}") as e:
            protocols.load_protocol(old)
        assert "\n" not in str(e.value)
    else:
        assert protocols.load_protocol(name).digest == digest


def test_nothing_published_is_missing_from_the_shelf():
    assert {(name, norm) for _, name, norm, _ in ROWS} <= set(SHELF)


def test_the_default_norm_is_the_one_that_a_file_names_first():
    assert protocols.norms_of("hopskipjump") == ("l2", "linf")
    assert protocols.load_protocol("hopskipjump").norm == "l2"
    assert protocols.load_protocol("pgd").norm == "linf"


@pytest.mark.parametrize(
    ("name", "norm", "message"),
    [
        ("cw", "linf", "cw: has no linf version, only l2"),
        ("noise", "l1", "noise: has no l1 version, only linf, l2; random-search has one"),
        ("pgd-margin", "l2", "pgd-margin: has no l2 version, only linf; ifgsm, pgd have one"),
    ],
)
def test_a_norm_that_a_file_lacks_is_refused_with_those_it_has(name, norm, message):
    with pytest.raises(ProtocolError) as caught:
        protocols.load_protocol(name, norm=norm)
    assert str(caught.value) == message


MIXED = """
title = "All norms"
norm  = ["linf", "l2", "l1"]

[[attack]]
kind = "fgsm"

[linf]
epsilon = ["0.1"]

[l1]
title   = "Only L1"
epsilon = ["2", "1"]
target  = "next"

[[l1.attack]]
kind          = "pgd"
steps         = 10
relative_step = "1/5"
"""


def in_norms(text):
    table = tomllib.loads(text)
    names = table["norm"]
    return {n: protocols.parse_protocol(table, "p", "p.toml", norm=n) for n in names}


def test_what_a_section_says_stands_in_the_place_of_what_holds_in_all_norms():
    found = in_norms(MIXED)
    assert [p.title for p in found.values()] == ["All norms", "All norms", "Only L1"]
    assert [[protocols.kind_of(a) for a in p.attacks] for p in found.values()] == [
        ["fgsm"],
        ["fgsm"],
        ["pgd"],
    ]
    assert [[e.text for e in p.epsilons] for p in found.values()] == [["0.1"], [], ["1", "2"]]
    assert [p.target for p in found.values()] == ["none", "none", "next"]


@pytest.mark.parametrize(
    "change",
    [
        ("steps         = 10", "steps         = 20"),
        ('target  = "next"', 'target  = "random"'),
        ('epsilon = ["2", "1"]', 'epsilon = ["2"]'),
        ('norm  = ["linf", "l2", "l1"]', 'norm  = ["l1", "l2", "linf"]'),
    ],
)
def test_what_is_changed_in_one_norm_changes_no_digest_of_another(change):
    before, after = in_norms(MIXED), in_norms(MIXED.replace(*change))
    for norm in ("linf", "l2"):
        assert after[norm].digest == before[norm].digest
    assert (after["l1"].digest == before["l1"].digest) == change[0].startswith("norm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"l1"]', '"l3"]'), "p.toml: norm: unknown value 'l3'"),
        ((', "l1"]', "]"), "p.toml: [l1]: not among its norms, linf, l2"),
        (('"l2", "l1"]', '"l1", "l1"]'), "p.toml: norm: name one or more, each once"),
        (('["linf", "l2", "l1"]', "[]"), "p.toml: norm: name one or more, each once"),
        (("[linf]", "[linff]"), "p.toml: unknown key 'linff'"),
        (("title   =", "titel   ="), "p.toml: [l1]: unknown key 'titel'; did you mean 'title'"),
        (("steps     ", "stesp     "), "p.toml: [[l1.attack]] 1: unknown key 'stesp'"),
        (("[linf]\n", ""), "p.toml: [[attack]] 1: unknown key 'epsilon'"),
        (('"All norms"\n', '"x"\nepsilon = ["1"]\n'), "a budget belongs to one norm; put it under"),
        (('["0.1"]', '["x"]'), "p.toml: [linf]: epsilon: expected a number"),
        (('[[attack]]\nkind = "fgsm"', ""), "p.toml: [linf]: the key 'attack' is missing"),
        (('kind = "fgsm"', 'kind = "cw"'), "cw: has no linf version, only l2"),
        (("[[attack]]", "l2 = 3\n[[attack]]"), "p.toml: [l2]: expected a table"),
    ],
)
def test_a_file_whose_norms_make_no_sense_is_one_line(change, message):
    text = MIXED.replace(*change, 1)
    assert text != MIXED
    with pytest.raises(ProtocolError) as caught:
        protocols.parse_protocol(tomllib.loads(text), "p", "p.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_protocol_of_another_norm_than_its_files_default_is_told_by_it():
    def told(norm, file=MIXED):
        return protocols.protocol_in_words({"name": "pgd", "norm": norm, "file": file})

    assert [told(n) for n in ("linf", "l2", "l1")] == ["pgd", "pgd (ℓ₂)", "pgd (ℓ₁)"]
    assert [told("l2", file) for file in ("", 'norm = "l2"', "no TOML")] == ["pgd"] * 3
    assert protocols.symbol("linf") == "ℓ∞"


def test_the_digest_follows_every_number_but_not_the_name():
    base = make(PGD)
    assert (
        base.digest
        == protocols.parse_protocol(
            {"title": "u", "norm": "linf", "attack": [PGD]}, "q", "q"
        ).digest
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


@pytest.mark.parametrize(("name", "norm"), [(name, norm) for _, name, norm, _ in ROWS])
def test_scanned_budgets_have_the_digest_under_which_they_were_published(name, norm):
    one, several = (
        [protocols.parse_epsilon(text) for text in texts] for texts in (["1/10"], ["1/10", "1/5"])
    )
    bisected = protocols.load_protocol(name, norm=norm)
    scanned = protocols.load_protocol(name, ["search=scan"], norm)
    for budgets in ([], one):  # nothing to search
        with_search, without = (
            replace(p, epsilons=budgets).resolved() for p in (bisected, scanned)
        )
        assert with_search == without
        assert "search" not in without
    with_search, without = (replace(p, epsilons=several).resolved() for p in (bisected, scanned))
    assert without == {k: v for k, v in with_search.items() if k != "search"}
    assert with_search["search"] == "bisect"
    assert [protocols.search_of(p) for p in (with_search, without)] == ["bisect", "scan"]


def test_how_budgets_are_searched_stands_in_a_file_or_a_setting():
    assert make(PGD).search == "bisect"
    assert make(PGD, search="scan").search == "scan"
    table = tomllib.loads(MIXED.replace('target  = "next"', 'search = "scan"'))
    found = {n: protocols.parse_protocol(table, "p", "p.toml", norm=n) for n in table["norm"]}
    assert {n: p.search for n, p in found.items()} == {
        "linf": "bisect",
        "l2": "bisect",
        "l1": "scan",
    }
    assert protocols.load_protocol("pgd", ["search=scan"]).search == "scan"
    assert protocols.load_protocol("pgd", ["search = scan", "search=bisect"]).search == "bisect"
    for setting in ("search=middle", "search=", "pgd.search=scan", "search"):
        with pytest.raises(ProtocolError, match=setting) as caught:
            protocols.load_protocol("pgd", [setting])
        assert "\n" not in str(caught.value)
    with pytest.raises(ProtocolError, match="search: unknown value 'biscet'; did you mean 'bisect"):
        make(PGD, search="biscet")


def test_equal_numbers_written_differently_are_the_same_question():
    assert make(PGD, epsilon=["1/10"]).digest == make(PGD, epsilon=["0.1"]).digest


def test_budgets_are_sorted_each_value_once_as_first_written():
    assert [e.text for e in make(PGD, epsilon=["0.3", "1/10", "0.1"]).epsilons] == ["1/10", "0.3"]


def test_a_rotation_alone_and_one_with_a_translation_are_two_budgets():
    grid, budgets = attacks.SpatialGrid(), ["30deg", "30deg+3px", "30/1deg"]
    made = protocols.Protocol(grid, epsilons=budgets)
    assert [e.text for e in made.epsilons] == ["30deg", "30deg+3px"]
    with pytest.raises(ProtocolError, match=r"30deg and 30deg\+3px: not in one proportion"):
        protocols.checked_protocol(made)


def test_without_a_random_start_there_is_one_start():
    made, once = (attacks.PGD(random_start=False, restarts=n) for n in (5, 1))
    assert made.restarts == 1
    assert made == once
    assert attacks.PGD(restarts=5).restarts == 5
    every = protocols.load_protocol("pgd", ["random_start=false", "restarts=5"])
    assert every.attacks[1].restarts == 1
    with pytest.raises(ProtocolError, match="pgd: restarts must be above 0, got 0"):
        protocols.checked_protocol(protocols.Protocol(attacks.PGD(random_start=False, restarts=0)))


@given(st.fractions(min_value=Fraction(1, 10**6), max_value=100))
def test_a_budget_is_exact(value):
    assert protocols.parse_epsilon(f"{value.numerator}/{value.denominator}").value == value


@pytest.mark.parametrize("text", ["0", "-1", "abc", "", "1/0", "nan", "inf", "8/255/2"])
def test_a_senseless_budget_is_an_error(text):
    with pytest.raises(ProtocolError, match="--epsilon"):
        protocols.parse_epsilon(text)


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
        ({"attack": [], "norm": "linf", "epsilon": ["0.1"]}, "has no attack"),
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
        (
            {"attack": [{"kind": "sparse-pgd", "patience": 0}], "norm": "l0"},
            "sparse-pgd: patience must be above 0, got 0",
        ),
        ({"attack": [PGD], "norm": "linf", "epsilon": ["x"]}, "epsilon"),
    ],
)
def test_a_senseless_protocol_is_one_line(table, message):
    with pytest.raises(ProtocolError) as caught:
        protocols.parse_protocol({"title": "t", **table}, "p", "p.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_change_the_attacks_that_have_them():
    protocol = protocols.load_protocol(
        "pgd", ["steps=100", "pgd.restarts=2", "relative_step=1/20", "loss=margin"]
    )
    fgsm, pgd = protocol.attacks
    assert (pgd.steps, pgd.restarts, pgd.relative_step) == (100, 2, Fraction(1, 20))
    assert fgsm.loss == pgd.loss == "margin"
    assert protocol.digest != protocols.load_protocol("pgd").digest
    assert protocols.load_protocol("pgd", ["random_start=false"]).attacks[1].random_start is False


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
        protocols.load_protocol("pgd", [setting])


def test_attacks_have_names_that_tell_them_apart():
    attacks = make(PGD, PGD | {"loss": "margin"}, PGD | {"steps": 9}, {"kind": "fgsm"}).attacks
    assert protocols.labels_of(attacks) == ("pgd 1", "pgd-margin", "pgd 2", "fgsm")


def test_fab_may_never_leap():
    fab = protocols.load_protocol("autoattack", ["fab.patience=0"]).attacks
    assert [a.patience for a in fab if isinstance(a, protocols.FAB)] == [0]
    with pytest.raises(ProtocolError, match="patience"):
        protocols.load_protocol("autoattack", ["fab.patience=-1"])


# --- composed in Python ---------------------------------------------------------------------------

BUDGETS = ["4/255", "8/255"]
NAMES = vars(attacks) | {name: getattr(attacks, name) for name in dir(attacks)}
NAMES |= {"Protocol": protocols.Protocol}


@pytest.mark.parametrize(("name", "norm"), [(name, norm) for _, name, norm, _ in ROWS])
def test_a_protocol_is_the_same_from_a_file_and_composed_and_pasted(name, norm):
    loaded = protocols.load_protocol(name, norm=norm)
    loaded = replace(loaded, epsilons=BUDGETS if loaded.attacks else (), seed=3)
    composed = protocols.Protocol(
        list(loaded.attacks),
        norm=norm,
        epsilons=[e.text for e in loaded.epsilons],
        search=loaded.search,
        seed=3,
    )
    assert composed.digest == loaded.digest
    assert composed.name != loaded.name, "it would be taken for what is on the shelf"
    assert eval(repr(composed), NAMES) == composed
    assert eval(repr(loaded), NAMES) == replace(loaded, text="")


def test_attacks_are_as_a_file_writes_them_whatever_numbers_python_has():
    table = {"steps": 40, "relative_step": "1/16"}
    (of_file,) = make(table | {"kind": "pgd"}).attacks
    for step in ("1/16", "0.0625", 0.0625, Fraction(1, 16), None):
        assert attacks.PGD(steps=40, relative_step=step) == of_file
    assert attacks.FAB(eta=1.05).eta == Fraction(21, 20)
    assert attacks.MIFGSM(steps=20).relative_step == Fraction(1, 20)
    assert make({"kind": "pgd", "steps": 10}).attacks[0].relative_step == Fraction(1, 4)


@pytest.mark.parametrize(
    "given",
    [
        8 / 255, "8/255", Fraction(8, 255), [8 / 255], ("8/255",), np.float64(8 / 255),
        np.array([8 / 255, 8 / 255]), np.array(8 / 255),
    ],
)  # fmt: skip
def test_budgets_are_exact_however_they_are_given(given):
    (epsilon,) = protocols.Protocol(attacks.PGD(), epsilons=given).epsilons
    assert (epsilon.value, epsilon.text) == (Fraction(8, 255), "8/255")


def test_a_norm_is_one_that_all_attacks_have():
    assert protocols.Protocol(attacks.PGD()).norm == "linf"
    assert protocols.Protocol([attacks.PGD(), attacks.DDN()]).norm == "l2"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: attacks.PGD(steps=2.5), "pgd: steps must be a whole number, got 2.5"),
        (lambda: attacks.PGD(random_start=1), "expected True or False, got 1"),
        (lambda: attacks.PGD(loss="dl"), "pgd: loss: unknown value 'dl'; did you mean 'dlr'?"),
        (lambda: attacks.FAB(eta=float("nan")), "fab: eta: expected a number"),
        (lambda: protocols.Protocol(attacks.PGD), "PGD: a kind of attack; write PGD()"),
        (lambda: protocols.Protocol(["pgd"]), "'pgd': no attack"),
        (lambda: protocols.Protocol(attacks.PGD(), epsilons=[0]), "must be above 0, got 0"),
        (lambda: protocols.Protocol(attacks.PGD(), epsilons=[True]), "expected a number"),
        (lambda: protocols.protocol_of(attacks.DDN(), norm="linf"), "no linf version"),
    ],
)
def test_what_makes_no_attack_is_told_in_a_line(call, said):
    with pytest.raises(ProtocolError) as error:
        protocols.checked_protocol(call())
    assert said in str(error.value)
    assert "\n" not in str(error.value)
