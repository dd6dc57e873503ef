"""`robustkit certify`: what it says of each image, keeps, resumes and refuses."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import robustkit as front
from robustkit.certification import certify, complete
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset
from robustkit.errors import EvaluationFailed, InputError, RecordError
from robustkit.evaluation import certifying
from robustkit.protocol import PGD
from robustkit.record.certification import encode_certification, read_certification

NET = """
from torch import nn

def net(num_classes=10):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(),
        nn.Linear(20, num_classes))

def soft(num_classes=10):
    return nn.Sequential(*net(num_classes), nn.Softmax(1))
"""
N, EPSILON = 24, "0.06"
WEAK = PGD(1, Fraction(1, 10**6), random_start=False)
"""finds nothing, so that branch and bound has to"""


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A small dense network trained for a second, as a file, and the file of its architecture."""
    folder = tmp_path_factory.mktemp("dense")
    (folder / "net.py").write_text(NET)
    space = {}
    exec(NET, space)
    data = load_dataset("mnist5k", split="train", limit=1500)
    x, y = torch.from_numpy(data.images(0, 1500)), torch.from_numpy(data.labels.copy())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = space["net"]()
        optimiser = torch.optim.Adam(network.parameters(), 0.01)
        for step in range(80):
            rows = torch.arange(step * 100, step * 100 + 100) % 1500
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
    torch.save(network.state_dict(), folder / "dense.pt")
    return folder


def options(digits, *more):
    return (
        digits / "dense.pt",
        "--model",
        f"{digits / 'net.py'}:net",
        *("--data", "mnist5k", "--limit", N, "--epsilon", EPSILON, "--device", "cpu"),
        *more,
    )


def test_every_image_ends_and_every_counterexample_fools(robustkit, digits, tmp_path):
    saved, summary = tmp_path / "found.npz", tmp_path / "certified.json"
    status, out, _ = robustkit(
        "certify", *options(digits, "--json", summary, "--save-adversarial", saved)
    )
    assert status == 0
    said = json.loads(summary.read_text())
    assert len(said["rows"]) == said["n"] == N
    counts = {}
    for row in said["rows"]:
        counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
    for outcome, count in counts.items():
        share = said[outcome]
        assert share["value"] == count / N
        assert share["low"] < share["value"] < share["high"]
    assert counts["certified"] > 3
    assert counts["fooled"] > 3
    assert said["robust_accuracy"]["at_least"] == said["certified"]
    assert said["robust_accuracy"]["at_most"]["value"] == 1 - counts["fooled"] / N
    assert "branch and bound" in {row["by"] for row in said["rows"]}

    network = read_checkpoint(digits / "dense.pt", model=f"{digits / 'net.py'}:net").load()
    data = load_dataset("mnist5k", limit=N)
    with np.load(saved) as found:
        images, index = torch.from_numpy(found["images"]), found["index"]
        assert [row["index"] for row in said["rows"] if row["outcome"] == "fooled"] == list(index)
        assert network(images).argmax(1).tolist() == found["fooled_as"].tolist()
        assert bool((found["fooled_as"] != data.labels[index]).all())
        distances = np.abs(found["images"].astype(float) - data.images(0, N)[index])
        assert np.allclose(distances.max((1, 2, 3)), found["distance"], atol=1e-9)
        assert found["distance"].max() <= 0.06 + 1e-6
    assert f"certified accuracy is {100 * counts['certified'] / N:.1f}\u00a0%" in out
    assert f"robust accuracy at most {100 - 100 * counts['fooled'] / N:.1f}\u00a0%" in out


def decided_rows(monkeypatch):
    """How many images `decide` is asked for, call by call."""
    asked, real = [], complete.decide

    def watched(model, block, *arguments, **named):
        asked.append(len(block.images))
        return real(model, block, *arguments, **named)

    monkeypatch.setattr(certifying, "decide", watched)
    return asked


@pytest.mark.thorough
def test_only_open_images_are_tried_again_and_only_with_more_time(robustkit, digits, monkeypatch):
    asked = decided_rows(monkeypatch)
    for limit in (0, 0, 60, 20):
        assert robustkit("certify", *options(digits, "--time-limit", limit))[0] == 0
    (path,) = (p for p in __import__("pathlib").Path("runs").glob("certification-*.npz"))
    rows = read_certification(path).rows
    again = [row for row in rows if row.time_limit == 60]
    assert asked == [N, len(again)]
    assert 0 < len(again) < N
    assert {row.outcome for row in again} <= {"certified", "fooled", "open"}
    assert any(row.outcome != "open" for row in again)


@pytest.mark.thorough
def test_an_interrupted_certification_goes_on_where_it_stopped(
    robustkit, digits, tmp_path, monkeypatch
):
    real = complete.decide

    class Stop(BaseException):
        pass

    def breaks(*arguments, **named):
        for k, one in enumerate(real(*arguments, **named)):
            if k == 10:
                raise Stop
            yield one

    arguments = (front.read_checkpoint(digits / "dense.pt", model=f"{digits / 'net.py'}:net"),)
    named = {"data": "mnist5k", "epsilon": EPSILON, "limit": N, "time_limit": 0.0, "out": tmp_path}
    monkeypatch.setattr(certifying, "decide", breaks)
    with pytest.raises(Stop):
        front.certify(*arguments, **named)
    monkeypatch.undo()
    (path,) = tmp_path.glob("certification-*.npz")
    with pytest.raises(RecordError, match="unfinished, 10 of 24 images are decided"):
        read_certification(path)
    assert len(read_certification(path, unfinished=True).rows) == 10
    assert "2 intact (certification 1, marker 1)" in robustkit("verify", tmp_path)[1]
    asked = decided_rows(monkeypatch)
    after = front.certify(*arguments, **named)
    assert asked == [N - 10]
    assert [row.index for row in after.rows] == list(range(N))
    whole = front.certify(*arguments, **named | {"out": tmp_path / "new"})
    keys = ("index", "outcome", "by", "margin", "fooled_as")
    same = [[getattr(row, key) for key in keys] for row in whole.rows]
    assert [[getattr(row, key) for key in keys] for row in after.rows] == same


@pytest.mark.one_of_many
@pytest.mark.parametrize("attack", ["ddn", "fmn"])
def test_what_an_attack_finds_beyond_the_budget_fools_nothing(digits, tmp_path, attack):
    checkpoint = front.read_checkpoint(digits / "dense.pt", model=f"{digits / 'net.py'}:net")
    named = {"data": "mnist5k", "epsilon": "0.3", "norm": "l2", "limit": 12, "out": tmp_path}
    found = front.certify(checkpoint, attack=attack, time_limit=0.0, **named)
    assert any(row.outcome == "open" for row in found.rows)
    for row in found.rows:
        assert row.outcome != "fooled" or row.distance <= 0.3 * (1 + 1e-6)


def test_a_network_without_bounds_leaves_no_record(digits, tmp_path):
    checkpoint = front.read_checkpoint(digits / "dense.pt", model=f"{digits / 'net.py'}:soft")
    with pytest.raises(InputError, match="no bounds for"):
        front.certify(checkpoint, data="mnist5k", epsilon=EPSILON, limit=6, out=tmp_path)
    assert not list(tmp_path.glob("certification-*.npz"))


@pytest.mark.thorough
def test_a_record_that_was_changed_is_refused(digits, tmp_path):
    checkpoint = front.read_checkpoint(digits / "dense.pt", model=f"{digits / 'net.py'}:net")
    named = {"data": "mnist5k", "epsilon": EPSILON, "limit": 6, "time_limit": 0.0, "out": tmp_path}
    found = front.certify(checkpoint, **named)
    with np.load(found.path) as arrays:
        content = dict(arrays)
    assert found.header["schema"] == "robustkit.certification/1"
    content["record"] = np.array(str(content["record"]).replace('"fooled"', '"certified"'))
    np.savez(found.path, **content)
    with pytest.raises(RecordError, match="changed since it was written"):
        front.certify(checkpoint, **named)
    found.path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(RecordError, match="not a robustkit certification"):
        front.certify(checkpoint, **named)


SEAL = "b23f3d4b3368c3d129350bce04aa0ced0769f2dcd81e5072c0d8d036dd824092"


def test_the_digest_of_a_record_is_that_of_every_version(tmp_path):
    """What was written is read as long as it is taken of the same words in the same order."""
    header = {"schema": "robustkit.certification/1", "digest": "c" * 64}
    pictures = np.arange(4.0).reshape(1, 1, 2, 2)
    path = tmp_path / f"certification-{'c' * 32}.npz"
    path.write_bytes(encode_certification(header, {"seconds": 1}, [], pictures))
    with np.load(path) as arrays:
        said, seal = json.loads(str(arrays["record"])), str(arrays["seal"])
    assert said == {"header": header, "run": {"seconds": 1}, "rows": []}
    assert seal == SEAL
    assert read_certification(path).perturbed.tolist() == pictures.tolist()


def test_what_cannot_be_certified_is_one_line(robustkit, digits):
    cases = [
        (
            (*options(digits)[:2], f"{digits / 'net.py'}:soft", *options(digits)[3:]),
            "no bounds for",
        ),
        (options(digits, "--time-limit", "-1"), "--time-limit"),
        (options(digits, "--time-limit", "nan"), "--time-limit"),
        (options(digits, "--attack", "none-such"), "none-such"),
        (options(digits, "--epsilon", "0"), "above 0"),
        (options(digits)[:3], "--epsilon"),
        (options(digits, "--attack", "towards.toml"), "towards: has the target 'next'"),
    ]
    Path("towards.toml").write_text(
        'title = "t"\nnorm = "linf"\ntarget = "next"\n[[attack]]\nkind = "fgsm"\n'
    )
    for arguments, words in cases:
        status, out, err = robustkit("certify", *arguments)
        assert (status, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1


def test_a_module_in_memory_is_certified_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        x = torch.rand(5, 1, 4, 4)
    found = front.certify(module, (x.numpy(), module(x).argmax(1).numpy()), epsilon=0.001)
    assert found.count("certified") == 5
    assert found.share("certified").value == found.upper().value == 1.0
    assert list(tmp_path.iterdir()) == []


DARK = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
DARK[:, :, :3], DARK[:, :, -1] = 0, 1


class Before(nn.Module):
    """A small network of fixed weights, behind a way of treating its input."""

    def __init__(self, before):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        source = torch.Generator().manual_seed(0)
        for weight in self.net.parameters():
            weight.data = torch.randn(weight.shape, generator=source) / 3
        self.before = before
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.net(self.before(x))


def test_a_network_that_hides_its_gradient_at_black_and_white_is_fooled_as_by_evaluate():
    network, asked = Before(torch.relu), {"attack": "pgd", "epsilon": "0.05"}
    labels = network(DARK).argmax(1)
    rows = front.evaluate(network, (DARK, labels), **asked, prove="off").table
    found = front.certify(network, (DARK, labels), **asked, time_limit=0)
    evaluated = [at is not None for at in rows["fooled_at"].to_pylist()]
    assert [row.outcome == "fooled" for row in found.rows] == evaluated
    assert 0 < sum(evaluated) < len(evaluated)


@pytest.mark.thorough
def test_branch_and_bound_follows_gradients_a_little_inside(monkeypatch):
    followed = []
    real = complete.Trial

    def told(model, other, *more):
        followed.append((model, other))
        return real(model, other, *more)

    monkeypatch.setattr(complete, "Trial", told)
    for before in (torch.relu, lambda x: x):
        network, epsilon = Before(before), "0.02"
        labels = network(DARK).argmax(1)
        found = front.certify(network, (DARK, labels), epsilon, attack=WEAK, time_limit=0.01)
        assert any(row.domains for row in found.rows)
    black = DARK[:1].round().requires_grad_()
    (model, other), (plain, same) = followed[0], followed[-1]
    assert plain is same
    slopes = [torch.autograd.grad(net(black).sum(), black)[0] for net in (model, other)]
    ends = (black == 0).detach()
    assert not bool(slopes[0][ends].any())
    assert bool(slopes[1][ends].any())
    with torch.no_grad():
        assert torch.equal(model(black), other(black.detach()))


PLAN = """
title      = "Bounds, one weak attack, branch and bound"
images     = 24
delta      = 0.2
indicators = 1
certified  = 24
multiplications = 0.0
branching  = 60
corrupted  = 1

[[stage]]
attack   = "fgsm"
budgets  = "judged"
required = true
"""


@pytest.mark.thorough
def test_an_audit_lets_branch_and_bound_decide_what_is_open(robustkit, digits, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    own = options(digits, "--claim", f"linf:{EPSILON}=0.5")
    arguments = (*own, "--budget", tmp_path / "plan.toml", "--out", tmp_path / "audit")
    (tmp_path / "without.toml").write_text(PLAN.replace("branching  = 60", "branching  = 0"))
    assert robustkit("audit", *arguments[:-4], "--budget", tmp_path / "without.toml")[0] == 0
    alone = json.loads((tmp_path / "audit" / "audit.json").read_text())
    for _ in range(2):  # the second time from file
        assert robustkit("audit", *arguments)[0] == 0
        audit = json.loads((tmp_path / "audit" / "audit.json").read_text())
        stage = audit["stages"][-1]
        assert (stage["name"], stage["status"]) == ("branch and bound", "complete")
        certified = audit["certificate"]["levels"][-1]
        proved = certified["methods"]["branch and bound"]
        assert proved > 0
        assert audit["certificate"]["method"].endswith(
            ", then branch and bound over the signs of ReLUs"
        )
        before = alone["certificate"]["levels"][-1]["certified"]["value"]
        assert round(N * certified["certified"]["value"]) == round(N * before) + proved
        left = round(N * audit["robust"][-1]["accuracy"]["value"])
        assert left == round(N * alone["robust"][-1]["accuracy"]["value"]) - stage["first"]
        assert left >= round(N * certified["certified"]["value"])
        assert f": {proved} certified, {stage['first']} fooled, " in stage["title"]
    assert "branch and bound" in (tmp_path / "audit" / "audit.html").read_text()


class OneNumber(nn.Module):
    """A step between holds one number per image."""

    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(9, 8), nn.Linear(8, 1)
        self.row = nn.Parameter(torch.rand(1, 9))
        self.end = end

    def forward(self, x):
        hidden = torch.relu(self.first(x.flatten(1)))
        return self.end(self, hidden, self.last(hidden).squeeze(1))


ENDS = {
    "binary head": lambda net, h, z: torch.cat([-z[:, None], z[:, None]], 1),
    "rectified": lambda net, h, z: torch.cat([z.relu()[:, None], z.relu()[:, None] * -1 + 0.1], 1),
    "centred": lambda net, h, z: h - h.mean(1)[:, None],
    "gate": lambda net, h, z: h * 2 + (h * net.last.weight[0]).sum(1).unsqueeze(1),
    "vector": lambda net, h, z: h + nn.functional.linear(h, net.last.weight[0])[:, None],
    "row": lambda net, h, z: torch.addmm(net.row, h, net.first.weight),
}


@pytest.mark.parametrize("end", ENDS)
def test_one_number_per_image_on_the_way_has_bounds_or_a_reason(end):
    network, x = OneNumber(ENDS[end]).eval(), torch.rand(4, 1, 3, 3)
    y = network(x).argmax(1)
    found = certify(network.requires_grad_(False), x, y, "linf", 1e-4)
    assert found.robust.all() or (end == "vector" and found.reason)


class Overflowing(nn.Module):
    """Two logits that overflow beyond one picture, towards which an attack goes."""

    def __init__(self, picture):
        super().__init__()
        self.near, self.out = nn.Linear(64, 1), nn.Linear(1, 2)
        self.far, self.huge = nn.Linear(1, 1), nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.near.weight.copy_(2 * picture.flatten() - 1)
            self.near.bias.zero_()
            self.far.weight.fill_(1e20)
            self.far.bias.fill_(-29e20)
            self.huge.weight.copy_(torch.tensor([[1e20], [0.0]]))
            self.out.weight.copy_(torch.tensor([[-1.0], [0.0]]))
            self.out.bias.copy_(torch.tensor([40.0, 0.0]))

    def forward(self, x):
        near = self.near(x.flatten(1))
        return self.out(near) + self.huge(torch.relu(self.far(near)))


@pytest.mark.parametrize("left", [range(6), (1, 3, 4)])
def test_an_error_names_an_image_by_its_place_among_all_of_them(monkeypatch, left):
    picture = (torch.arange(64) % 2).float().view(1, 8, 8)
    x = torch.stack([0 * picture] * 3 + [0.9 * picture] + [0 * picture] * 2)
    network, labels = Overflowing(picture).eval(), torch.zeros(6, dtype=torch.int64)
    decide = certifying._Run._decide  # of those that an earlier run left open
    monkeypatch.setattr(
        certifying._Run, "_decide", lambda self, _, known: decide(self, list(left), known)
    )
    with pytest.raises(EvaluationFailed, match="at image 3 "):
        front.certify(network, (x, labels), epsilon="0.1", norm="linf", attack="pgd", time_limit=0)


# --- user code that reads more than its source ----------------------------------------------------

READS = """
from pathlib import Path

from torch import nn

def net(num_classes=3):
    kind = Path(__file__).with_name("kind.txt").read_text()
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), getattr(nn, kind)(), nn.Linear(8, num_classes))
"""


class Folder:
    """A small network of a file that reads another one, its images, and its certifications."""

    def __init__(self, place):
        self.place = place
        with torch.random.fork_rng():
            torch.manual_seed(3)
            network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
            torch.save(network.state_dict(), place / "dense.pt")
            self.images = torch.rand(8, 1, 4, 4)
        self.labels = network(self.images).argmax(1).numpy()
        (place / "reads.py").write_text(READS)

    def write(self, kind):
        (self.place / "kind.txt").write_text(kind)

    def certify(self, name="dense.pt", **named):
        read = front.read_checkpoint(self.place / name, model=f"{self.place / 'reads.py'}:net")
        asked = {"epsilon": "0.02", "attack": "fgsm", "time_limit": 0.0, "device": "cpu"}
        asked["out"] = self.place / "runs"
        return front.certify(read, (self.images.numpy(), self.labels), **asked | named)


@pytest.fixture
def own(tmp_path):
    found = Folder(tmp_path)
    found.write("ReLU")
    return found


def margins(found):
    return [round(row.margin or 0, 6) for row in found.rows]  # other batches round otherwise


class Stop(BaseException):
    pass


def stopped(monkeypatch, after):
    """Whoever certifies is stopped after so many images."""
    real = complete.decide

    def breaks(*arguments, **named):
        for k, one in enumerate(real(*arguments, **named)):
            if k == after:
                raise Stop
            yield one

    monkeypatch.setattr(certifying, "decide", breaks)


@pytest.mark.thorough
def test_user_code_that_reads_another_file_is_certified_anew_where_that_has_changed(
    own, tmp_path, monkeypatch
):
    first = own.certify()
    asked = decided_rows(monkeypatch)
    assert margins(own.certify()) == margins(first)
    assert asked == []
    own.write("Identity")
    second = own.certify()
    assert second.path == first.path
    assert asked == [8]
    assert margins(second) == margins(own.certify(out=tmp_path / "new")) != margins(first)
    # an unfinished one is not taken up either, and its own goes on
    own.write("ReLU")
    stopped(monkeypatch, 3)
    with pytest.raises(Stop):
        own.certify()
    asked = decided_rows(monkeypatch)
    own.write("Identity")
    assert margins(own.certify()) == margins(second)
    own.write("ReLU")
    assert margins(own.certify()) == margins(first)
    assert asked == [5]


@pytest.mark.thorough
def test_a_finished_certification_is_not_lost_to_one_that_is_interrupted(
    own, robustkit, monkeypatch
):
    before = own.certify()
    content = before.path.read_bytes()
    stopped(monkeypatch, 3)
    with pytest.raises(Stop):
        own.certify(fresh=True)
    assert before.path.read_bytes() == content
    assert margins(read_certification(before.path)) == margins(before)
    assert "(certification 2, marker 1)" in robustkit("verify", before.path.parent)[1]
    asked = decided_rows(monkeypatch)
    assert margins(own.certify()) == margins(before)
    assert asked == [5], "it goes on where it stopped"
    assert [p.name for p in before.path.parent.glob("cert*")] == [before.path.name]
    assert own.certify(fresh=True).count("open") == before.count("open")
    assert asked == [5, 8]


def test_a_finished_certification_is_read_where_nothing_can_be_locked_or_written(own, monkeypatch):
    before = own.certify()

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("robustkit.record.folder.FileLock.acquire", refuse)
    monkeypatch.setattr(certifying, "write_atomic", refuse)
    assert margins(own.certify()) == margins(before)
    with pytest.raises(EvaluationFailed, match=r"cannot lock .*: Permission denied; give an --out"):
        own.certify(epsilon="0.03")


def test_a_certification_of_an_equal_network_is_told_of_the_file_that_is_asked(own, monkeypatch):
    own.certify()
    content = torch.load(own.place / "dense.pt")
    torch.save({"state_dict": content}, own.place / "other.pt")
    (own.place / "other.pt.toml").write_text("seed = 5\n")
    asked = decided_rows(monkeypatch)
    found = own.certify("other.pt")
    assert asked == []
    made = found.header["checkpoint"]
    assert (made["path"], made["seed"]) == (str(own.place / "other.pt"), 5)
    assert own.certify().header["checkpoint"]["seed"] is None
