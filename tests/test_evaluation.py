import threading
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock

from robustkit import data, evaluate, verify
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset
from robustkit.device import fitting
from robustkit.display.progress import Bar
from robustkit.errors import (
    DataError,
    EvaluationFailed,
    InputError,
    NetworkFailed,
    ProtocolError,
    RecordError,
)
from robustkit.evaluation import (
    RunOptions,
    block_size,
    blocks,
    from_checkpoint,
    from_module,
    resolve_protocol,
    run,
)
from robustkit.evaluation.config import renewed
from robustkit.models import build
from robustkit.network import answer
from robustkit.protocol import load_protocol
from robustkit.record import Store, read, read_table

PGD = ["steps=6", "relative_step=1/2", "restarts=2"]


class Net(torch.nn.Module):
    def __init__(self, seed=0, classes=3):
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        self.fc = torch.nn.Linear(64, classes)
        with torch.no_grad():
            self.fc.weight.copy_(torch.randn(classes, 64, generator=source))
            self.fc.bias.zero_()

    def forward(self, x):
        return self.fc(x.flatten(1) - 0.5)


@pytest.fixture
def arrays():
    source = np.random.default_rng(0)
    images = source.random((700, 1, 8, 8), dtype=np.float32)
    with torch.no_grad():
        labels = Net()(torch.from_numpy(images)).argmax(1).numpy()
    labels[::50] = (labels[::50] + 1) % 3
    return images, labels


def ask(arrays, **options):
    settings = {"epsilon": ["1/50", "1/20", "1/10"], "settings": PGD} | options
    return evaluate(settings.pop("model", Net()), settings.pop("data", arrays), "pgd", **settings)


@pytest.mark.thorough
def test_one_call_gives_one_honest_row_per_image(arrays):
    found = ask(arrays)
    rows = found.rows
    assert len(rows) == 700
    assert rows["index"].tolist() == list(range(700))
    assert (rows.label == arrays[1]).all()
    assert rows["sample"].is_unique
    wrong = rows.label != rows.predicted
    assert (rows.fooled_by[wrong] == "clean").all()
    assert (rows.fooled_at[wrong] == "0").all()
    assert wrong.sum() == 14
    fooled = rows.fooled_at.notna() & ~wrong
    assert (
        rows.distance[fooled]
        <= rows.fooled_at[fooled].map({"1/50": 0.02, "1/20": 0.05, "1/10": 0.1}) + 1e-6
    ).all()
    assert rows.distance[rows.fooled_at.isna()].isna().all()


@pytest.mark.thorough
def test_a_module_is_left_alone_and_cached_only_by_name(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Net().train()
    ask(arrays, model=model)
    assert model.training
    assert model.fc.weight.requires_grad
    assert not (tmp_path / "runs").exists()
    first = ask(arrays, model=model, name="net")
    again = ask(arrays, model=model, name="net")
    assert first.path == again.path
    assert first.run == again.run
    assert ask(arrays, model=Net(1), name="net").path != first.path


def test_without_attacks_there_is_a_clean_accuracy_and_no_robust_one(arrays):
    found = evaluate(Net(), arrays, "clean")
    assert found.clean().value == 686 / 700
    assert found.robust() == ()
    assert found.rows.fooled_by.value_counts().to_dict() == {"clean": 14}
    with pytest.raises(ProtocolError, match="contains no attack"):
        evaluate(Net(), arrays, "clean", epsilon=["0.1"])


@pytest.mark.thorough
def test_a_surrogate_is_part_of_the_question(arrays, tmp_path):
    dataset = data.from_arrays(*arrays, name="arrays")
    asked = resolve_protocol("pgd", dataset, ["1/20"], settings=PGD)
    subject, other = (from_module(Net(seed), f"net{seed}") for seed in (0, 1))
    found = {
        name: run(subject, dataset, asked, tmp_path, RunOptions(), surrogate)
        for name, surrogate in (("white box", None), ("itself", subject), ("other", other))
    }
    assert len({record.digest for record in found.values()}) == 3
    robust = {name: record.robust()[0].accuracy.value for name, record in found.items()}
    assert robust["white box"] <= robust["itself"] < robust["other"]
    assert found["other"].header["surrogate"]["path"] == "net1"
    assert any("transfer attack" in warning for warning in found["other"].header["warnings"])
    with pytest.raises(ProtocolError, match="deepfool: cannot use a surrogate"):
        run(
            subject,
            dataset,
            resolve_protocol("deepfool", dataset, ["1/20"]),
            tmp_path,
            RunOptions(),
            other,
        )


def test_an_interrupted_run_resumes_to_the_same_rows(arrays, tmp_path):
    undisturbed = ask(arrays, name="net", out=tmp_path / "a")
    for stop_at in (10, 300, 520, 520):

        def progress(done, total, stop_at=stop_at):
            if done >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ask(arrays, name="net", out=tmp_path / "b", progress=progress)
        assert not list((tmp_path / "b").glob("*.parquet"))
    kept = len(list((tmp_path / "b").glob("*.partial/block-*.parquet")))
    assert kept == 2
    resumed = ask(arrays, name="net", out=tmp_path / "b")
    assert resumed.rows_digest == undisturbed.rows_digest
    # what the blocks of earlier runs took is not known
    assert resumed.run["seconds"] is None
    assert undisturbed.run["seconds"] > 0
    # passes of blocks that an earlier process attacked count, those of a block that was cut do not
    assert resumed.rows.forward.map(sum).sum() > len(arrays[0])
    assert [e.index for e in resumed.examples] == [e.index for e in undisturbed.examples]
    assert [e.distance for e in resumed.examples] == sorted(e.distance for e in resumed.examples)


@pytest.mark.thorough
def test_a_resumed_run_keeps_the_batch_size_it_began_with(arrays, tmp_path):
    def stop(done, total):
        if done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(arrays, name="n", out=tmp_path, batch_size=17, progress=stop)
    assert ask(arrays, name="n", out=tmp_path).run["batch_size"] == 17


@pytest.mark.thorough
def test_batch_sizes_agree(arrays, tmp_path):
    one = ask(arrays, batch_size=13).rows
    other = ask(arrays, batch_size=700).rows
    different = one.fooled_at.fillna("") != other.fooled_at.fillna("")
    assert different.mean() <= 0.001
    assert (one.distance - other.distance).abs()[~different].max() <= 1e-3


@pytest.mark.thorough
def test_the_same_question_is_answered_from_the_file_unless_asked_fresh(
    arrays, tmp_path, monkeypatch
):
    first = ask(arrays, name="n", out=tmp_path)
    calls = []
    real = blocks.attack_block
    monkeypatch.setattr(blocks, "attack_block", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert ask(arrays, name="n", out=tmp_path).rows_digest == first.rows_digest
    assert not calls
    assert ask(arrays, name="n", out=tmp_path, fresh=True).rows_digest == first.rows_digest
    assert calls


def test_the_digest_follows_whatever_can_change_a_row(arrays, tmp_path):
    images, labels = arrays
    questions = [
        ask(arrays, name="n", out=tmp_path, limit=50),
        ask(arrays, name="n", out=tmp_path, limit=51),
        ask((images * 0.9, labels), name="n", out=tmp_path, limit=50),
        ask((images, (labels + 1) % 3), name="n", out=tmp_path, limit=50),
        ask(arrays, name="n", out=tmp_path, limit=50, seed=1),
        ask(arrays, name="n", out=tmp_path, limit=50, target="next"),
        ask(arrays, name="n", out=tmp_path, limit=50, epsilon=["1/50"]),
        ask(arrays, name="n", out=tmp_path, limit=50, settings=["steps=5", *PGD[1:]]),
        ask(arrays, name="n", out=tmp_path, limit=50, model=Net(3)),
    ]
    assert len({q.digest for q in questions}) == len(questions)
    same = ask(arrays, name="n", out=tmp_path, limit=50, epsilon=["0.02", "0.05", "0.1"])
    assert same.digest == questions[0].digest


def test_a_second_asker_waits_for_the_first(arrays, tmp_path, monkeypatch):
    started, waited = threading.Event(), threading.Event()

    def slow(done, total):
        started.set()
        waited.wait(20)

    first = threading.Thread(
        target=ask,
        args=(arrays,),
        kwargs={"name": "n", "out": tmp_path, "limit": 20, "progress": slow},
    )
    first.start()
    assert started.wait(20)
    calls, bar = [], Bar("n")
    monkeypatch.setattr(bar.meter, "tell", lambda text: waited.set())
    monkeypatch.setattr(bar.meter, "update", lambda done, *rest: calls.append(done))
    answer = ask(arrays, name="n", out=tmp_path, limit=20, progress=bar)
    first.join()
    assert len(answer.rows) == 20
    assert not calls  # it took the first one's answer


@pytest.mark.parametrize(
    "words",
    [
        "GET was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_a_lack_of_memory_that_a_library_words_otherwise_is_one(words, monkeypatch):
    def network(x):
        if len(x) > 2:
            raise RuntimeError(words)
        return x.flatten(1)

    def asked(size):
        return torch.cat([answer(network, part) for part in torch.ones(8, 3).split(size)])

    with pytest.raises(NetworkFailed):
        fitting(asked, 8)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert fitting(asked, 8).shape == (8, 3)


@pytest.mark.thorough
def test_running_out_of_gpu_memory_halves_the_batch_and_says_so(arrays, monkeypatch):
    real, sizes = blocks.attack_block, []

    def small_gpu(model, block, protocol, batch_size, **others):
        sizes.append(batch_size)
        if batch_size > 16:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return real(model, block, protocol, batch_size, **others)

    monkeypatch.setattr(blocks, "attack_block", small_gpu)
    found = ask(arrays, limit=300, batch_size=64)
    assert sizes == [64, 32, 16, 16]
    assert found.run["batch_size"] == 16
    assert len(found.run["events"]) == 2
    assert "batch size halved to 32" in found.run["events"][0]
    monkeypatch.setattr(
        blocks,
        "attack_block",
        lambda *a, **k: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("")),
    )
    with pytest.raises(EvaluationFailed, match="too little memory for one image"):
        ask(arrays, limit=10, batch_size=1)


@pytest.mark.thorough
def test_perturbed_images_are_kept_without_loss(arrays, tmp_path):
    path = tmp_path / "images.npz"
    found = ask(arrays, limit=600, save_adversarial=path)
    saved = np.load(path, allow_pickle=False)
    assert saved["images"].dtype == np.float32
    assert saved["images"].shape == (600, 1, 8, 8)
    rows = found.rows
    assert saved["sample"].tolist() == rows["sample"].tolist()
    fooled = (rows.fooled_at.notna() & (rows.fooled_at != "0")).to_numpy()
    with torch.no_grad():
        predicted = Net()(torch.from_numpy(saved["images"])).argmax(1).numpy()
    assert (predicted[fooled] != rows.label[fooled]).all()
    reached = np.abs(saved["images"].astype(float) - arrays[0][:600]).reshape(600, -1).max(1)
    np.testing.assert_allclose(reached[fooled], rows.distance[fooled], atol=1e-12)
    assert (reached[~fooled] == 0).all()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.thorough
def test_the_smallest_perturbations_are_kept_for_looking_at(arrays):
    found = ask(arrays)
    assert len(found.examples) == blocks.EXAMPLES
    distances = found.rows.set_index("index").distance
    assert [e.distance for e in found.examples] == distances[distances > 0].sort_values().head(
        8
    ).tolist()
    for example in found.examples:
        assert example.predicted != example.label
        assert np.abs(example.perturbed - example.clean).max() == pytest.approx(
            example.distance, abs=1e-6
        )


TWO_CLASSES = data.from_arrays(
    np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, int), name="two", classes=("a", "b")
)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": (np.zeros((4, 3, 8, 8), np.float32), np.zeros(4, int))}, InputError, "3|192"),
        ({"model": Net(classes=2)}, DataError, "2 classes, but"),
        ({"data": TWO_CLASSES}, DataError, "say which with --classes .in Python classes="),
        ({"epsilon": ["0"]}, ProtocolError, "above 0"),
        ({"epsilon": ["x"]}, ProtocolError, "expected a number"),
        (
            {"epsilon": []},
            ProtocolError,
            "no usual linf budgets are known for arrays; give --epsilon",
        ),
        ({"device": "nonsense"}, InputError, "--device nonsense"),
        ({"data": (np.full((4, 1, 8, 8), 2, np.float32), np.zeros(4, int))}, DataError, "image"),
    ],
)
def test_bad_input_is_one_line(arrays, change, error, message):
    with pytest.raises(error, match=message) as caught:
        ask(arrays, **change)
    assert "\n" not in str(caught.value)


def test_nan_logits_fail_and_leave_no_record(arrays, tmp_path):
    class Broken(Net):
        def forward(self, x):
            return super().forward(x) / (x.flatten(1).max(1, keepdim=True).values < 0.999)

    with pytest.raises(EvaluationFailed, match="NaN or infinite at image"):
        ask(arrays, model=Broken(), name="n", out=tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


def test_a_full_disk_fails_in_one_line(arrays, tmp_path, monkeypatch):
    from robustkit.record import folder

    def full(path, pieces):
        raise EvaluationFailed(f"cannot write {path}: No space left on device")

    store = tmp_path / "runs"
    ask(arrays, name="other", out=store, limit=5)
    monkeypatch.setattr(folder, "write_atomic", full)
    (store / folder.MARKER).unlink()
    with pytest.raises(EvaluationFailed, match="No space left"):
        ask(arrays, name="n", out=store)


def test_budgets_come_from_the_call_then_the_protocol_then_the_data():
    digits = load_dataset("mnist5k", limit=5)
    usual = resolve_protocol("pgd", digits)
    assert [e.text for e in usual.epsilons] == list(digits.budgets["linf"])
    assert [e.text for e in resolve_protocol("pgd", digits, ["8/255"]).epsilons] == ["8/255"]
    own = replace(usual, epsilons=usual.epsilons[:1])
    assert resolve_protocol(own, digits).epsilons == usual.epsilons[:1]


def test_images_that_may_have_been_trained_on_are_warned_of(tmp_path):
    digits = load_dataset("mnist5k", limit=5)
    shipped = from_checkpoint(read_checkpoint("lenet5-mnist5k"))
    asked = resolve_protocol("fgsm", digits)
    assert run(shipped, digits, asked, tmp_path, RunOptions()).header["warnings"] == []
    other = replace(shipped, header={**shipped.header, "trained_on": "mnist"})
    found = run(other, digits, asked, tmp_path / "b", RunOptions())
    assert any("training images of mnist" in w for w in found.header["warnings"])


def test_a_norm_is_asked_for_by_name_and_a_protocol_at_hand_keeps_its_own(arrays):
    two = {"limit": 2, "epsilon": ["1"]}
    found = ask(arrays, norm="l2", **two)
    assert found.header["protocol"]["norm"] == "l2"
    ready = load_protocol("fgsm", norm="l1")
    again = evaluate(Net(), arrays, ready, norm="l1", **two)
    assert again.header["protocol"]["digest"] == replace(ready, epsilons=again.epsilons).digest
    with pytest.raises(ProtocolError, match="fgsm: is a protocol in l1, not in l2"):
        evaluate(Net(), arrays, ready, norm="l2", **two)


def test_a_weak_protocol_is_warned_of(arrays):
    found = ask(arrays, limit=5, settings=["steps=3", "relative_step=1/10"])
    assert any("robust accuracy may be overstated" in w for w in found.header["warnings"])


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_data_set(tmp_path, monkeypatch):
    """Blocks are read one after the other, and none is held longer than its turn."""
    import gc
    import weakref

    alive: list = []
    peak = 0
    real = blocks.block_of

    def watched(*arguments):
        nonlocal peak
        block = real(*arguments)
        alive.append(weakref.ref(block.images))
        gc.collect()
        peak = max(peak, sum(r() is not None for r in alive))
        return block

    monkeypatch.setattr(blocks, "block_of", watched)
    images = np.random.default_rng(0).random((2000, 1, 8, 8), dtype=np.float32)
    evaluate(Net(), (images, np.zeros(2000, int)), "fgsm", epsilon=["1/10"])
    assert len(alive) == 8
    assert peak <= 2


def test_blocks_are_small_on_a_cpu_and_bounded_on_a_gpu():
    digits = load_dataset("mnist5k", limit=2)
    assert block_size(digits, torch.device("cpu")) == 256
    assert block_size(digits, torch.device("cuda")) * 28 * 28 * 4 <= 2**26


def test_labels_that_lack_the_last_class_fit_a_model_that_has_it(arrays):
    images, labels = arrays
    few = labels < 2
    assert len(ask((images[few], labels[few]), limit=20).rows) == 20


def test_a_finished_record_is_read_where_nothing_can_be_locked_or_written(
    arrays, tmp_path, monkeypatch
):
    made = ask(arrays, name="n", out=tmp_path, limit=5)

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("robustkit.record.folder.FileLock.acquire", refuse)
    monkeypatch.setattr("robustkit.record.folder.write_atomic", refuse)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert ask(arrays, name="n", out=tmp_path, limit=5).rows_digest == made.rows_digest
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with pytest.raises(EvaluationFailed, match=r"cannot lock .*: Permission denied; give an --out"):
        ask(arrays, name="n", out=tmp_path, limit=6)


def test_a_changed_record_is_no_answer_until_it_is_made_anew(arrays, tmp_path):
    made = ask(arrays, name="n", out=tmp_path, limit=5)
    rows = pq.read_table(made.path)
    place = rows.schema.names.index("fooled_at")
    nothing = pa.array([None] * len(rows), pa.string())
    pq.write_table(rows.set_column(place, "fooled_at", nothing), made.path)
    with pytest.raises(RecordError, match="changed or damaged since it was written"):
        ask(arrays, name="n", out=tmp_path, limit=5)
    again = ask(arrays, name="n", out=tmp_path, limit=5, fresh=True)
    assert again.rows_digest == made.rows_digest


# --- what an answer from file says ----------------------------------------------------------------


def named(arrays, **facts):
    found = data.from_arrays(*arrays, name="arrays", classes=("a", "b", "c"))
    return replace(found, **facts)


@pytest.fixture
def few(arrays):
    return arrays[0][:20], arrays[1][:20]


def clean(model, images, out, **options):
    return evaluate(model, images, "clean", name="n", out=out, device="cpu", **options)


@pytest.mark.parametrize(
    "facts", [{"classes": ("b", "a", "c")}, {"title": "t"}, {"notes": ("read anew",)}]
)
def test_facts_of_the_data_that_are_in_no_digest_are_those_of_now_here_and_on_file(
    few, tmp_path, facts
):
    first = clean(Net(), named(few), tmp_path)
    before = read_table(first.path)
    again = clean(Net(), named(few, **facts), tmp_path)
    assert again.run == first.run, "it is answered from its file"
    for header in (again.header, read(first.path).header):
        for key, value in facts.items():
            assert header["data"][key] == (list(value) if isinstance(value, tuple) else value)
        assert {**header, "data": first.header["data"]} == first.header
    found, rows = read_table(first.path)
    assert rows.equals(before[1])
    assert (found.run, found.outputs) == (before[0].run, before[0].outputs)
    assert [one.state for one in verify(tmp_path).files if one.kind == "record"] == ["intact"]
    content = first.path.read_bytes()
    clean(Net(), named(few, **facts), tmp_path)
    assert first.path.read_bytes() == content


def test_a_record_of_other_names_stays_that_of_those(few, tmp_path):
    first = clean(Net(), named(few), tmp_path)
    content = first.path.read_bytes()
    other = clean(Net(), named(few, name="others", title="o"), tmp_path)
    assert (other.header["data"]["name"], other.run) == ("others", first.run)
    assert first.path.read_bytes() == content


def test_a_header_that_cannot_be_written_is_told_all_the_same(few, tmp_path, monkeypatch):
    first = clean(Net(), named(few), tmp_path)
    content = first.path.read_bytes()
    lock = FileLock(tmp_path / f"{first.digest[:32]}.lock")
    with lock:  # another process has it
        assert clean(Net(), named(few, title="t"), tmp_path).header["data"]["title"] == "t"
    assert first.path.read_bytes() == content

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("robustkit.record.folder.FileLock.acquire", refuse)
    assert clean(Net(), named(few, title="t"), tmp_path).header["data"]["title"] == "t"
    assert first.path.read_bytes() == content


def test_a_header_is_written_to_the_record_that_is_there_by_then(few, tmp_path):
    first = clean(Net(), named(few), tmp_path)
    store, rows = Store(tmp_path), read(first.path).table
    store.renew(first.digest, lambda header: {**header, "warnings": ["w"]})
    assert read(first.path).header["warnings"] == ["w"]
    assert read(first.path).table.equals(rows)
    # neither a record of another digest, nor one of an older format, nor none at all
    content = first.path.read_bytes()
    store.renew(first.digest, lambda header: {**header, "digest": "0" * 64})
    store.renew(first.digest, lambda header: {**header, "schema": "robustkit.evaluation/2"})
    store.renew("0" * 64, lambda header: header)
    assert first.path.read_bytes() == content
    first.path.write_bytes(content[:-9])
    store.renew(first.digest, lambda header: {**header, "warnings": []})
    assert first.path.read_bytes() == content[:-9]


def test_a_sidecar_that_comes_later_is_told_of_and_goes_on_record(tmp_path):
    with torch.random.fork_rng():
        torch.save(build("lenet5").state_dict(), tmp_path / "net.pt")
    asked = {"data": "mnist5k", "limit": 4, "attack": "clean", "device": "cpu"}
    first = evaluate(tmp_path / "net.pt", out=tmp_path / "runs", **asked)
    assert first.header["checkpoint"]["seed"] is None
    guessed = first.header["checkpoint"]["warnings"]
    assert guessed
    assert set(guessed) <= set(first.header["warnings"])
    (tmp_path / "net.pt.toml").write_text(
        'model = "lenet5"\nseed = 3\nloss = "trades"\ntrained_on = "mnist5k"\n'
    )
    again = evaluate(tmp_path / "net.pt", out=tmp_path / "runs", **asked)
    assert again.run == first.run
    for header in (again.header, read(first.path).header):
        made = header["checkpoint"]
        assert (made["seed"], made["loss"]) == (3, "trades")
        assert {*made["warnings"]} < {*guessed}
        assert {*header["warnings"]} & {*guessed} == {*made["warnings"]}
        assert not any("may have seen" in text for text in header["warnings"])
    assert any("may have seen" in text for text in first.header["warnings"])
    # a copy without one says nothing of it, and the record stays that of the first
    (tmp_path / "copy.pt").write_bytes((tmp_path / "net.pt").read_bytes())
    copy = evaluate(tmp_path / "copy.pt", out=tmp_path / "runs", **asked)
    assert (copy.header["checkpoint"]["seed"], copy.run) == (None, first.run)
    assert read(first.path).header["checkpoint"]["seed"] == 3


def test_a_surrogate_in_another_file_is_called_by_its_own_path(few, tmp_path):
    with torch.random.fork_rng():
        torch.save(build("lenet5").state_dict(), tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    asked = {"data": "mnist5k", "limit": 4, "attack": "fgsm", "epsilon": "0.1", "device": "cpu"}
    for name in ("a.pt", "b.pt"):
        found = evaluate(
            "lenet5-mnist5k", surrogate=tmp_path / name, out=tmp_path / "runs", **asked
        )
        assert found.header["surrogate"]["path"] == str(tmp_path / name)
        told = [text for text in found.header["warnings"] if "attacked through" in text]
        assert [name in text for text in told] == [True]


def test_an_older_record_of_a_network_stays_of_the_same_one(few, tmp_path):
    """Its audits and other records do not tell what else than weights makes a network either."""
    images, net = named(few), Net()
    header = clean(net, images, tmp_path).header
    model = from_module(net, "n")
    assert "network" in header["checkpoint"]
    assert renewed(header, images, model) == header
    older = {key: value for key, value in header["checkpoint"].items() if key != "network"}
    found = renewed({**header, "checkpoint": older}, named(few, title="t"), model)
    assert (found["checkpoint"], found["data"]["title"]) == (older, "t")
