"""A study's file: what makes no sense is told before anything is trained."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from helpers.studies import STUDY, Here, begin, changed

from robustkit import losses, spec
from robustkit.attacks import REVISION
from robustkit.errors import InputError
from robustkit.files import canonical, digest, names, shipped
from robustkit.models import MODELS
from robustkit.protocol import load_protocol
from robustkit.study.cells import evaluation_of
from robustkit.study.configuration import method_config
from robustkit.study.selection import Context
from robustkit.study.user_files import noise_of


def test_a_choice_needs_a_seed_to_choose_by(tiny, tmp_path):
    whole = changed(tiny, tmp_path, 'surrogate = "cross-entropy"', "")
    with pytest.raises(InputError, match=r"\[tuning\] needs a seed, or every_seed = true"):
        spec.load_study(str(changed(whole, tmp_path, "seed = 7", "")))


def test_a_choice_needs_something_to_choose_from(tiny, tmp_path):
    text = tiny.read_text()
    lines = [line for line in text.splitlines() if not line.startswith("choose")]
    path = tmp_path / "none.toml"
    path.write_text("\n".join(lines).replace("seed = 7", "seed = 7\nevery_seed = true"))
    with pytest.raises(InputError, match="no method has configurations to choose from"):
        spec.load_study(str(path))
    empty = [line if not line.startswith("choose") else "choose = []" for line in text.splitlines()]
    path.write_text("\n".join(empty))
    with pytest.raises(InputError, match="leaves no configuration"):
        spec.load_study(str(path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title    = "Tiny"', "", "the key 'title' is missing"),
        ("[train]", "[trian]", "did you mean 'train'"),
        ("seeds      = [0, 1]", "seeds = [0, 0]", "0 occurs 2 times"),
        ("seeds      = [0, 1]", "seeds = [0, 7]", "seed 7 is also one of the compared"),
        ("steps      = 4", "steps = 0", "must be above 0"),
        ('baseline = "cross-entropy"', 'baseline = "cross"', "unknown baseline 'cross'"),
        ('factor = "label_noise"', 'factor = "noise"', "unknown factor 'noise'"),
        ('levels = ["0", "0.4"]', "levels = []", "levels are missing"),
        ('levels = ["0", "0.4"]', 'levels = ["0", "40 %"]', "expected a number"),
        ('protocol  = "fgsm"', "", "the factor epsilon needs a protocol"),
        ('protocol  = "fgsm"', 'protocol = "fgsm"\nnorm = "l3"', "norm: unknown value 'l3'"),
        ("delta  = 1.0", 'norm = "l2"', "analysis 'label-noise': norm has no effect"),
        ("delta  = 1.0", 'protocol = "pgd"', "protocol has no effect where the factor is label"),
        ("delta  = 1.0", 'surrogate = "cross-entropy"', "surrogate has no effect"),
        ("delta  = 1.0", 'label_noise = "0.2"', "label_noise is the factor"),
        ("delta  = 1.0", "seeds = [0, 0]", "analysis 'label-noise': seeds: 0 occurs 2 times"),
        ("delta  = 1.0", 'methods = ["cross-entropy", "cross-entropy"]', "occurs 2 times"),
        ("delta  = 1.0", "delta = 100", "delta 100: must be points, from 0 to below 100"),
        ('hold_out   = "100"', 'hold_out = "1.5"', "a share below 1, or whole images"),
        ("limit = 60", 'limit = 60\nprotocol = "pgd"', "[test] protocol: has no effect"),
        ("limit = 60", 'limit = 60\nnorm = "l2"', "[test] norm: has no effect"),
        ('surrogate = "cross-entropy"', 'surrogate = "me"', "unknown surrogate"),
        (", { learning_rate = 0.1 }]\n\n[[method]]", "]\n\n[[method]]", "same number of config"),
        ('a        = "wide hinge"', 'a = "hinge"', "did you mean 'wide hinge'"),
        ('reason   = "a test"', "", "give the reason"),
        ("bounds   = [0.9, 1.1]", "bounds = [0.9]", "lowest, highest"),
        ('[tuning]\nseed = 7\nat   = ["0.4"]', "", "trained with [tuning]'s seed"),
        ('at   = ["0.4"]', 'at = ["0.5"]', "unknown [tuning] at '0.5'"),
        ("seeds      = [0, 1]", "seeds = [0, -1]", "[train] seeds: -1 must not be negative"),
        ("seed = 7", "every_seed = true", "trained with [tuning]'s seed"),
        ("seed = 7", "seed = 7\nevery_seed = 1", "every_seed"),
        ("seed = 7", "seed = -7", "[tuning] seed: -7 must not be negative"),
        ("steps      = 4", "steps = 4000000000", "must be at most 100,000,000"),
        ("limit = 60", "limit = 0", "[test] limit 0: must be at least 2"),
        ("limit     = 20", "limit = 1", "analysis 'transfer': limit 1: must be at least 2"),
        ('levels = ["0", "0.4"]', 'levels = ["0.4", "0.40"]', "0.4 and 0.40 are the same number"),
        ('levels = ["0", "0.4"]', 'levels = ["0.4", "1"]', "level 1: label noise must be from 0"),
        ('levels = ["0", "0.4"]', 'levels = ["-0.1", "0.4"]', "label noise must be from 0"),
        ('"0.1"]\nlimit', '"0.1"]\ndata_fraction = "0"\nlimit', "must be above 0 and at most 1"),
        ('"0.1"]\nlimit', '"0.1"]\ndata_fraction = "1.5"\nlimit', "must be above 0 and at most 1"),
        ('levels    = ["0.05", "0.1"]', 'levels = ["0", "0.1"]', "a budget must be above 0"),
        ('levels    = ["0.05", "0.1"]', 'levels = ["-0.1"]', "a budget must be above 0"),
        ('reason   = "a test"', 'reason = "a"\nlevels = ["0.4", "2/5"]', "are the same number"),
        ("delta  = 1.0", "delta = -1.0", "analysis 'label-noise': delta -1"),
        ("delta  = 1.0", "delta = nan", "[[analysis]] 1: delta: expected a finite number, got nan"),
        ("delta    = 1.0", "delta = inf", "[[claim]] 1: delta: expected a finite number, got inf"),
        ("delta    = 1.0", "delta = nan", "[[claim]] 1: delta: expected a finite number, got nan"),
        ("delta    = 1.0", "delta = -1", "delta -1: must be points, from 0 to below 100"),
        ('says     = "better"', 'says = "ratio"\nbounds = [1.0, 2.0]', "has accuracies"),
        ("bounds   = [0.9, 1.1]", "bounds = [1.1, 0.9]", "the lowest first"),
        (
            "bounds   = [0.9, 1.1]",
            "bounds = [1.1, inf]",
            "bounds: expected a finite number, got inf",
        ),
        (
            "bounds   = [0.9, 1.1]",
            "bounds = [nan, 1.1]",
            "bounds: expected a finite number, got nan",
        ),
        ("bounds   = [0.9, 1.1]", "bounds = [0.0, 1.1]", "must be above 0, finite"),
        ('b        = "cross-entropy"', 'b = "wide hinge"', "compares 'wide hinge' with itself"),
        ('analysis = "label-noise"', 'analysis = "label-nosie"', "did you mean 'label-noise'"),
        ('factor = "label_noise"\n', 'factor = "cost"\n', "has times"),
        ('hold_out   = "100"', 'hold_out = "-1"', "must not be negative"),
        ('name   = "label-noise"', 'name = "../noise"', "'../noise': must have no slash"),
        ('name   = "label-noise"', 'name = " "', "[[analysis]] name ' '"),
        ("question = ", 'figures = ["curve"]\nquestion = ', "did you mean 'curves'"),
        ("question = ", 'tables = ["claim"]\nquestion = ', "did you mean 'claims'"),
        ("[tuning]", '[statistics]\nunit = "image"\n\n[tuning]', "unknown value 'image'"),
        ("[tuning]", '[statistics]\nunit = "network"\n\n[tuning]', "takes one network"),
        ("[tuning]", '[statistics]\ntests = ["wilcoxon"]\n\n[tuning]', "did you mean 'Wilcoxon'"),
        ("[tuning]", '[statistics]\ntests = ["Wilcoxon", "Wilcoxon"]\n\n[tuning]', "2 times"),
        ("question = ", 'tables = ["cost", "cost"]\nquestion = ', "cost occurs 2 times"),
    ],
)
def test_a_study_that_makes_no_sense_is_told_in_one_line(tiny, tmp_path, old, new, message):
    with pytest.raises(InputError) as caught:
        spec.load_study(str(changed(tiny, tmp_path, old, new)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{ learning_rate = 0.01 }", "{ learning_rat = 0.01 }", "did you mean 'learning_rate'"),
        ("limit = 60", 'split = "train"', "test images are training images, too; give others"),
        ("{ learning_rate = 0.01 }", "{ steps = 5 }", "is the same for all methods"),
        ("{ learning_rate = 0.01 }", "{ learning_rate = -1.0 }", "must be above 0"),
        ('hold_out   = "100"', 'hold_out = "many"', "expected a number"),
        ('hold_out   = "100"', 'hold_out = "0"', "holds out 0 images of 4,000"),
        ('hold_out   = "100"', 'hold_out = "0.0"', "holds out 0 images of 4,000"),
        ('hold_out   = "100"', 'hold_out = "1/100000"', "holds out 0 images of 4,000"),
        ('hold_out   = "100"', 'hold_out = "4000"', "[train]: hold-out: cannot hold out 4000"),
        ('"0.1"]\nlimit', '"0.1"]\ndata_fraction = "0.0001"\nlimit', "too few for one image"),
        ('data       = "mnist5k"', 'data = "mnist5"', "[train] data: unknown data set 'mnist5'"),
        ('data       = "mnist5k"', 'data = "mnist5"', "did you mean 'mnist5k'"),
        ('data  = "mnist5k"', 'data = "mnist5"', "[test] data: unknown data set 'mnist5'"),
        ('"fgsm"', '"fgms"', "analysis 'transfer': unknown attack 'fgms'; did you mean 'fgsm'"),
        ('"fgsm"', '"clean"', "analysis 'transfer': the protocol 'clean' contains no attack"),
        ('"fgsm"', '"fgsm-l2"', "'transfer': unknown attack 'fgsm-l2'; did you mean --attack fgsm"),
        ('"fgsm"', '"mifgsm"\nnorm = "l2"', "'transfer': mifgsm: has no l2 version, only linf"),
        ('loss     = "hinge"', 'loss = "hing"', "method 'wide hinge': unknown loss 'hing'"),
        ("margin = 2.0", "margin = -2.0", "method 'wide hinge': hinge"),
        ("margin = 2.0", 'margin = "2"', "hinge: margin: expected float, got '2'"),
        ("{ margin = 2.0 }", "3", "method 'wide hinge': settings: expected a table"),
        ("steps      = 4", 'steps = 4\nnoise_kind = "pare"', "[train] noise_kind: unknown kind"),
        ("steps      = 4", 'steps = 4\nnoise_kind = "matrix:no.csv"', "no.csv: no such file"),
    ],
)
def test_a_plan_that_makes_no_sense_is_told_in_one_line(tiny, tmp_path, old, new, message):
    with pytest.raises(InputError) as caught:
        begin(path := changed(tiny, tmp_path, old, new), tmp_path / "out").plan()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["lenet6", "torchvision:resnet17"])
def test_a_model_that_there_is_not_is_told_before_anything_is_trained(tiny, tmp_path, name):
    path = tmp_path / "other.toml"
    path.write_text(STUDY.replace("NET", name))
    with pytest.raises(InputError, match=r"other\.toml: \[train\] model: unknown .*did you mean"):
        begin(path, tmp_path / "out")


def test_a_claim_about_an_analysis_of_another_study_is_none_misspelt(tiny, tmp_path):
    other = changed(tiny, tmp_path, 'analysis = "label-noise"', 'analysis = "cifar10-label-noise"')
    assert spec.load_study(str(other)).claims[0].analysis == "cifar10-label-noise"


def test_a_claims_level_is_a_number_however_it_is_written(tiny, tmp_path):
    levels = 'reason = "a"\nlevels = ["0.40"]'
    study = spec.load_study(str(changed(tiny, tmp_path, 'reason   = "a test"', levels)))
    assert study.claims[0].levels == ("0.40",)


def test_what_is_no_table_is_no_table_with_an_option_either(tiny, tmp_path):
    path = changed(tiny, tmp_path, '[test]\ndata  = "mnist5k"\nlimit = 60', "")
    path.write_text(f"test = 3\n{path.read_text()}")
    with pytest.raises(InputError, match="test: expected dict, got 3"):
        spec.load_study(str(path), {"test": {"limit": 5}})


@pytest.mark.thorough
def test_label_noise_of_every_kind_has_a_level_without_any(tiny, tmp_path):
    path = changed(tiny, tmp_path, "steps      = 4", 'steps = 4\nnoise_kind = "pair"')
    run, executor = begin(path, tmp_path / "out"), Here(tmp_path / "out", 7)
    with pytest.raises(KeyboardInterrupt):
        run.finish(executor)
    cells = [(job.cell.context.label_noise, run.store.cell(job.cell.key)) for job in executor.done]
    assert {level for level, _ in cells} == {"0", "0.4"}
    assert {cell["status"] for _, cell in cells} == {"done"}


@pytest.mark.thorough
def test_a_matrix_makes_no_noise_at_the_level_without_any(tiny, tmp_path):
    matrix = np.full((10, 10), 0.04) + 0.6 * np.eye(10)
    np.savetxt(tmp_path / "matrix.csv", matrix, delimiter=",")
    kind = f'noise_kind = "matrix:{tmp_path}/matrix.csv"'
    path = changed(tiny, tmp_path, "steps      = 4", f"steps = 4\n{kind}")
    path.write_text(path.read_text().replace('"0.4"', '"0.2"'))
    run = begin(path, tmp_path / "out")
    cells = run.plan().cells.values()
    assert {cell.asked["noise"]["rate"] for cell in cells} == {"0.2"}
    clean = run.planner.cell("cross-entropy", Context("0", "1"), 0, 0).asked["noise"]
    assert clean == {"kind": "symmetric", "rate": "0"}
    assert noise_of(kind.partition('"')[2].strip('"'), "0").rate == 0
    matrix = np.eye(10)
    matrix[0, :2] = 0.5  # makes wrong a tenth of all labels at most
    np.savetxt(tmp_path / "matrix.csv", matrix, delimiter=",")
    with pytest.raises(InputError, match=r"\[train\]: .*matrix"):
        begin(path, tmp_path / "more")


@pytest.mark.parametrize("name", names("reports"))
def test_shipped_studies_ask_for_what_there_is(name):
    study = spec.load_study(name)
    for protocol in {a.protocol for a in study.analyses} - {""}:
        load_protocol(protocol)
    if study.trained is None:
        return
    assert study.claims
    assert study.trained.model in MODELS
    assert study.trained.data in names("data")
    assert study.tested.data == study.trained.data
    for method in study.methods:
        for number in range(len(method.choose)):
            losses.build(method.loss, method_config(method, number, study.trained)["settings"])


def test_a_study_is_another_where_a_claim_is_and_not_where_its_words_are(tiny, tmp_path):
    base = spec.load_study(str(tiny)).digest
    for old, new, same in [
        ("Does it run?", "Does it?", True),
        ("The hinge is better.", "Better it is.", True),
        ("delta    = 1.0", "delta = 0.9", False),
        ('says     = "better"', 'says = "equivalent"', False),
        ("steps      = 4", "steps = 5", False),
        ("limit     = 20", "limit = 21", False),
        ("question = ", 'figures = ["curves"]\ntables = []\nquestion = ', True),
        ("limit     = 20", 'limit = 20\nnorm = "l2"', False),
        ("[tuning]", '[statistics]\nunit = "seed"\n\n[tuning]', True),
        ("seed = 7", "seed = 7\nevery_seed = false", True),
        ("seed = 7", "seed = 7\nevery_seed = true", False),
        ("[tuning]", '[statistics]\ntests = ["Wilcoxon"]\n\n[tuning]', False),
    ]:
        now = spec.load_study(str(changed(tiny, tmp_path, old, new))).digest
        assert (now == base) is same, new


@pytest.mark.parametrize("name", ["title", "text", "source", "reason", "notes", "question"])
def test_a_setting_decides_whatever_it_is_called(tiny, tmp_path, name):
    """Of a claim the same words decide nothing."""

    def digests(*pairs):
        return {spec.load_study(str(changed(tiny, tmp_path, *pair))).digest for pair in pairs}

    own = [("margin = 2.0", f"margin = 2.0, {name} = {number}") for number in (1, 2)]
    plain = "recipe   = { learning_rate = 0.1"
    recipe = [(plain, f"{plain}, {name} = {number}") for number in (1, 2)]
    loss = 'loss     = "hinge"'
    settings = [(loss, f"{loss}\nsettings = {{ {name} = {number} }}") for number in (1, 2)]
    assert len(digests(*own, *recipe, *settings)) == 6
    study = spec.load_study(str(tiny))
    made = [
        replace(study, external=spec.ExternalSpec(names={name: (net,)})).digest
        for net in ("a", "b")
    ]
    assert made[0] != made[1]


@pytest.mark.parametrize("name", names("reports"))
def test_no_shipped_study_has_a_setting_of_which_earlier_digests_knew_nothing(name, monkeypatch):
    study = spec.load_study(name)
    known = study.digest
    monkeypatch.setattr("robustkit.spec.study.OWN", ())
    assert study.digest == known


@pytest.mark.parametrize(
    "published", sorted(shipped("reports").glob("*/manifest.json")), ids=lambda p: p.parent.name
)
def test_a_published_studys_file_has_the_digest_under_which_it_was_published(published):
    study = spec.load_study(published.parent.name)
    assert study.digest == json.loads(published.read_text())["study"]


def test_a_study_attacks_in_the_norm_that_it_names(tiny, tmp_path):
    plain = spec.load_study(str(tiny))
    named = spec.load_study(
        str(changed(tiny, tmp_path, "limit     = 20", 'limit = 20\nnorm = "l2"'))
    )
    before, after = (
        [evaluation_of(s, a, "cell", lambda limit: "images") for a in s.analyses]
        for s in (plain, named)
    )
    assert [test.norm for test in after] == [None, "l2"]
    assert before[0].key == after[0].key
    assert before[1].key != after[1].key
    # as evaluations were named before a study could name a norm, a pass or a precision, but for
    # the attacks' revision
    asked = asdict(before[1]) | {"attacks": REVISION}
    for later in ("norm", "resolved", "passes", "precision"):
        del asked[later]
    assert before[1].key == digest(canonical(asked))[:24]


def test_a_shipped_studys_digest_stays_what_it_was_when_it_was_run():
    study = spec.load_study("elsayed2018-mnist")
    assert study.digest == "23bdc73676126ad3113e4de8033f6e4504200b2d6e6140d44f492f1826910db9"
    assert spec.study_of_text(study.text, "other", "elsewhere.toml", {}).digest == study.digest
    assert spec.load_study("elsayed2018-mnist", {"test": {"limit": 5}}).digest != study.digest
