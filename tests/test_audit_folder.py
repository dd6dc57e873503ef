"""A folder keeps the audit that it holds: another's is refused before any work."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from helpers.audits import full

from robustkit.auditing.stored import FIRST, encoded, of_one_set, read_audit
from robustkit.auditing.verdict import claimed_elsewhere
from robustkit.calls import audit as calls
from robustkit.calls.evaluate import evaluate
from robustkit.checkpoint import save_checkpoint
from robustkit.data import from_arrays
from robustkit.errors import InputError, RecordError
from robustkit.files import write_atomic
from robustkit.models import build
from robustkit.summary import summarise


def net(seed=0, kind=torch.nn.Identity):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3), kind())


def pictures(seed=0, n=12, **made):
    drawn = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return from_arrays(drawn[:n], torch.arange(n) % 3, name="drawn", **made)


@pytest.fixture
def audit(monkeypatch, tmp_path):
    """The call, whose audits are those of `full` in all but what tells them apart."""

    def run(request, settings):
        images = request.data.distinct()
        data = {key: getattr(images, key) for key in ("name", "split", "digest", "transform")}
        data["first_image"] = images.ids[0]
        return replace(
            full(),
            checkpoint=request.model.header,
            data={**full().data, **data, "n": len(images)},
            norm=request.threat.norm,
            epsilon=request.threat.judged.text,
        )

    def write(audit, out):
        write_atomic(out / "audit.json", json.dumps(encoded(audit)).encode())

    def call(model, images, epsilon="1/50", **more):
        where = {"epsilon": epsilon, "out": tmp_path / "audit", "device": "cpu"}
        return calls.audit(model, images, **(where | more))

    monkeypatch.setattr(calls, "run_audit", run)
    monkeypatch.setattr(calls, "write", write)
    return call


@pytest.mark.parametrize(
    ("other", "told"),
    [
        pytest.param(lambda: (net(1), pictures()), "of another network called <Sequential>", id="weights"),
        pytest.param(lambda: (net(0, torch.nn.ReLU), pictures()), "of another network", id="code"),
        pytest.param(lambda: (net()[1:], pictures()), "of another network", id="parts"),
        pytest.param(lambda: (net()[1], pictures()), "of <Sequential>", id="class"),
        pytest.param(lambda: (net(), pictures(1)), "on other images of drawn all", id="images"),
        pytest.param(lambda: (net(), pictures(1, 9)), "on other images of drawn all", id="fewer"),
        pytest.param(lambda: (net(), pictures(1, 30)), "on other images of drawn all", id="more"),
        pytest.param(lambda: (net(), pictures(n=9, resize=6, crop=4)), "on other images of", id="made"),
        pytest.param(lambda: (net(), pictures(), "1/20"), "at linf 1/50", id="budget"),
        pytest.param(
            lambda: (net(1), pictures(1), "1/20"),
            "of another network called <Sequential>, on other images of drawn all, at linf 1/50",
            id="all",
        ),
    ],
)  # fmt: skip
def test_a_folder_with_the_audit_of_something_else_is_refused_before_any_work(
    audit, tmp_path, monkeypatch, other, told
):
    audit(net(), pictures())
    before = (tmp_path / "audit" / "audit.json").read_bytes()
    monkeypatch.setattr(calls, "run_audit", None)
    with pytest.raises(RecordError) as refused:
        audit(*other())
    path = tmp_path / "audit" / "audit.json"
    assert str(refused.value).startswith(f"{path}: holds the audit {told}")
    assert str(refused.value).endswith("; give another --out, or remove it")
    assert path.read_bytes() == before


def test_another_norm_is_another_budget(audit):
    audit(net(), pictures())
    with pytest.raises(RecordError, match="holds the audit at linf 1/50; give another --out"):
        audit(net(), pictures(), norm="l2")


class Unread(torch.nn.Module):
    """Of which something cannot be read, so that nothing but weights and name tells it."""

    def __init__(self, seed):
        super().__init__()
        self.inner, self.own = net(seed), iter(())

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda: {}, id="the same"),
        pytest.param(lambda: {"claim": "linf:1/50=0.3"}, id="claim"),
        pytest.param(lambda: {"budget": "thorough"}, id="effort"),
        pytest.param(lambda: {"images": pictures(n=30)}, id="more images"),
        pytest.param(lambda: {"images": pictures(n=9)}, id="fewer images"),
        pytest.param(lambda: {"epsilon": 0.02}, id="as a number"),
        pytest.param(lambda: {"name": "mine"}, id="under a name"),
        pytest.param(lambda: {"out": ""}, id="elsewhere"),
    ],
)
def test_an_audit_of_the_same_replaces_the_last(audit, tmp_path, monkeypatch, again):
    monkeypatch.chdir(tmp_path)
    audit(net(), pictures())
    images = again().get("images", pictures())
    audit(net(), images, **{key: value for key, value in again().items() if key != "images"})
    written = tmp_path / "audit" if "out" not in again() else tmp_path
    assert read_audit(written / "audit.json").data["n"] == len(images)


def test_a_network_that_cannot_be_read_is_told_by_its_weights_and_its_name(audit):
    audit(Unread(0), pictures())
    audit(Unread(0), pictures())
    with pytest.raises(RecordError, match="of another network called <Unread>"):
        audit(Unread(1), pictures())


def test_a_checkpoint_is_told_by_its_weights_wherever_it_stands(audit, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_checkpoint(first, build("lenet5", num_classes=10, seed=0), model="lenet5")
    shutil.copy(first, second)
    audit(str(first), "mnist5k", limit=9)
    audit(str(second), "mnist5k", limit=5, claim="linf:1/50=0.5")
    save_checkpoint(second, build("lenet5", num_classes=10, seed=1), model="lenet5")
    with pytest.raises(RecordError, match=r"of another network called .*b\.safetensors; give"):
        audit(str(second), "mnist5k", limit=9)
    with pytest.raises(RecordError, match=r"on mnist5k test, at linf 1/50; give"):
        audit(str(first), "mnist5k", "1/20", split="train", limit=9)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"{}",
        b"[1]",
        b"3",
        b'{"schema": "robustkit.audit/2"}',
        b'{"schema": "robustkit.audit/1"}',
        b'{"schema": "robustkit.audit/1", "checkpoint": 3, "data": 3, "epsilon": "x", "norm": 3}',
        b'{"schema": "robustkit.audit/1", "checkpoint": {}, "data": {}, "epsilon": "1", "norm": ""}',
        b"[" * 10_000,
    ],
    ids=lambda content: content[:40],
)
def test_what_is_no_audit_is_left_alone_and_told_in_one_line(audit, tmp_path, monkeypatch, content):
    path = tmp_path / "audit" / "audit.json"
    path.parent.mkdir()
    path.write_bytes(content)
    monkeypatch.setattr(calls, "run_audit", None)
    with pytest.raises(RecordError) as refused:
        audit(net(), pictures())
    assert str(refused.value).startswith(f"{path}: ")
    assert str(refused.value).endswith("; give another --out, or remove it")
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


def test_an_audit_that_was_changed_is_made_anew(audit, tmp_path):
    """As `robustkit verify` advises."""
    audit(net(), pictures())
    path = tmp_path / "audit" / "audit.json"
    path.write_text(path.read_text().replace('"linf"', '"linf" ', 1).replace("0.53", "0.93"))
    with pytest.raises(RecordError, match="run its robustkit audit again"):
        read_audit(path)
    audit(net(), pictures())
    read_audit(path)


@pytest.mark.parametrize("split", ["test", "all"])
@pytest.mark.parametrize("known", ["ids", "first", "neither"])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("made", ["alike", "otherwise"])
def test_other_images_under_the_same_name_are_told_apart(split, known, held, made):
    """By their ids where these are known; the name of a benchmark's part is enough by itself."""

    def header(ids, digest, transform):
        own = {"name": "arrays", "split": split, "n": len(ids), "digest": digest}
        own |= {"transform": transform}
        return own | {"ids": {"ids": ids}, "first": {FIRST: ids[0]}, "neither": {}}[known]

    more = header(["a:1", "b:1", "c:1"], "m", {})
    fewer = header(
        ["a:1", "b:1"] if held else ["d:1", "b:1"], "f", {} if made == "alike" else {"crop": 4}
    )
    same = True if split == "test" else None if known == "neither" else held
    for one, other in ((more, fewer), (fewer, more)):
        assert of_one_set(one, other) is (same if made == "alike" else False)
    assert of_one_set(more, more) is True
    assert of_one_set(more, {**more, "digest": "x"}) is False


@pytest.mark.parametrize("form", ["in memory", "record", "summary"])
def test_a_claim_of_other_arrays_is_told(tmp_path, form):
    """Another number of images is no proof that they are of the same arrays."""
    claimed = evaluate(
        net(), pictures(), "fgsm", epsilon="0.1", name="net", device="cpu", out=tmp_path
    )
    if form == "summary":
        (tmp_path / "a.json").write_text(json.dumps([summarise(claimed)]))
    source = {"in memory": claimed, "record": claimed.path}.get(form, tmp_path / "a.json")

    def told(images):
        data = {
            key: getattr(images, key) for key in ("name", "split", "digest", "transform", "ids")
        }
        header = claimed.header["checkpoint"]
        return claimed_elsewhere(source, header, data | {"n": len(images)})

    assert told(pictures()) == []
    assert "is of other images" in told(pictures(1))[0]
    own, other = told(pictures(n=9)), told(pictures(1, 9))
    if form == "summary":  # which does not say of which images
        assert own == other
        assert "may be of other images than audited: drawn all (12 images)" in own[0]
    else:
        assert own == []
        assert "is of other images than audited: drawn all (12 images)" in other[0]


def policy(tmp_path, rule):
    path = tmp_path / "gate.toml"
    path.write_text(f'title = "gate"\n[[require]]\n{rule}\nat_least = 0.0\n')
    return path


def test_a_rule_of_another_audit_is_refused_before_any_work(audit, tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "run_audit", None)
    gate = policy(tmp_path, 'robust = "l2:0.5"')
    with pytest.raises(InputError, match="the audit is in linf; give --norm l2, and the rules"):
        audit(net(), pictures(), policy=gate)
    gate.write_text('title = "gate"\n[[require]]\nnot_worse_than = "b.pt"\nby_more_than = 0.1\n')
    with pytest.raises(InputError, match=r"give --against b\.pt"):
        audit(net(), pictures(), policy=gate)


def test_a_rule_that_no_network_passes_is_said_and_the_audit_made(audit, tmp_path):
    found = audit(net(), pictures(), policy=policy(tmp_path, 'certified = "linf:1/100"'))
    assert [text for text in found.warnings if "will fail, whatever the network" in text]
    found = audit(net(), pictures(), policy=policy(tmp_path, 'robust = "linf:0.02"'))
    assert "will fail" not in " ".join(found.warnings)
