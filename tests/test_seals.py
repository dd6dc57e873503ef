"""What is cached in JSON and in checkpoints is believed only as it was written."""

import json

import pytest

from robustkit.checkpoint import read_checkpoint, save_checkpoint
from robustkit.checkpoint.header import SEAL
from robustkit.errors import CheckpointError, RecordError
from robustkit.models import build
from robustkit.seals import KEY, read_sealed, sealed, unsealed, unsealed_bytes
from robustkit.study.store import StudyStore


def test_a_seal_sees_every_value_and_no_layout(tmp_path):
    contents = {"a": [1, (2.5, None)], "b": {"c": "ü"}, "d": True}
    made = sealed(contents)
    assert unsealed(made) == ({"a": [1, [2.5, None]], "b": {"c": "ü"}, "d": True}, "sound")
    assert unsealed(json.loads(json.dumps(dict(reversed(made.items())), indent=3))).state == "sound"
    for changed in ({**made, "d": False}, {**made, "e": 1}, {k: made[k] for k in ("a", KEY)}):
        assert unsealed(changed).state == "changed"
    assert unsealed(contents).state == "no digest"


@pytest.mark.parametrize("kind", ["cell", "test", "cost"])
def test_an_edited_result_of_a_study_is_refused_and_an_older_one_is_read(tmp_path, kind):
    store = StudyStore(tmp_path)
    store.keep(kind, "k", {"status": "done", "clean": 0.5})
    path = tmp_path / f"{kind}s" / "k.json"
    read = getattr(store, kind)
    assert read("k") == {"status": "done", "clean": 0.5}
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(RecordError, match="changed since it was written, by its own digest"):
        read("k")
    path.write_text('{"status": "done", "clean": 0.5}')
    assert read("k") == {"status": "done", "clean": 0.5}
    for damaged in ("{", "[" * 10**5, "7", "\0"):
        path.write_text(damaged)
        with pytest.raises(RecordError, match=r"k\.json: damaged") as caught:
            read("k")
        assert "\n" not in str(caught.value)


def test_what_is_not_there_is_no_error_of_a_seal(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_sealed(tmp_path / "x.json", "")


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, build("lenet5", num_classes=10, seed=0), model="lenet5", loss="hinge")
    return path


def test_a_checkpoint_of_ours_whose_weights_or_words_were_changed_is_refused(checkpoint):
    whole = checkpoint.read_bytes()
    assert read_checkpoint(str(checkpoint)).loss == "hinge"
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for changed in (bytes(flipped), whole.replace(b"hinge", b"dunno")):
        assert changed != whole
        checkpoint.write_bytes(changed)
        with pytest.raises(CheckpointError, match="changed since robustkit wrote it"):
            read_checkpoint(str(checkpoint))


def test_a_checkpoint_of_an_earlier_version_has_no_digest_and_is_read(checkpoint):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    assert metadata.pop(SEAL)
    save_file(load_file(checkpoint), checkpoint, metadata)
    assert read_checkpoint(str(checkpoint)).loss == "hinge"


def test_the_state_of_an_unfinished_training_is_read_as_it_was_written():
    from hashlib import sha256

    seal = b"robustkit.state/1 " + sha256(b"torch's").hexdigest().encode()
    assert unsealed_bytes(b"torch's" + seal) == b"torch's"
    assert unsealed_bytes(b"PK of earlier versions") == b"PK of earlier versions"
    for changed in (b"torch't" + seal, b"torch" + seal, seal, b"torch's" + seal[:-3]):
        with pytest.raises(ValueError, match="does not fit"):
            unsealed_bytes(changed)
