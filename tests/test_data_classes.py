"""Which class of a network each class of the data is."""

import io
import json
import tarfile
from dataclasses import replace
from functools import partial

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import schemas
from PIL import Image

from robustkit import evaluate
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset, read_dataset_spec
from robustkit.data.classes import DataClasses, WantedClasses, map_classes
from robustkit.data.classnames import renumbered
from robustkit.errors import DataError
from robustkit.evaluation import check_classes, images_for

NAMES = ("airplane", "automobile", "bird", "cat")
ELEVEN = tuple("abcdefghijk")
SYNSETS, IMAGENET = read_dataset_spec("imagenet").folders, read_dataset_spec("imagenet").classes
HUGGING_FACE = tuple(f"{name}, {number} legs" for number, name in enumerate(IMAGENET))
SHORT = {"crane bird": "crane", "maillot tank suit": "maillot"}
TENSORFLOW = ("background", *(SHORT.get(name, name) for name in IMAGENET))
"""as google/mobilenet_v1_1.0_224 names them"""


def mapped(own, numbered=False, empty=(), **wanted):
    found = map_classes(DataClasses(tuple(own), numbered, "own", empty), WantedClasses(**wanted))
    return None if found is None else found.numbers


def one_line(match):
    return pytest.raises(DataError, match=rf"\A[^\n]*(?:{match})[^\n]*\Z")


@pytest.mark.parametrize(
    ("names", "numbered", "network", "numbers"),
    [
        (NAMES, False, NAMES, (0, 1, 2, 3)),
        (("cat", "Bird"), False, NAMES, (3, 2)),
        (("automobile", "cat", "airplane", "bird"), True, NAMES, (1, 3, 0, 2)),
        (("red_fox", "Arctic-Fox"), False, ("arctic fox", "red fox", "kit fox"), (1, 0)),
        (("tench", "Tinca tinca"), False, ("x, tench", "tinca tinca, y"), (0, 1)),
        # exactly so, before anything alike
        (("cardigan", "Cardigan"), False, ("Cardigan", "cardigan"), (1, 0)),
        (("polecat",), False, ("skunk, polecat", "polecat, fitch"), (1,)),
        # numbers are no names
        (("0", "1", "2"), True, NAMES, (0, 1, 2)),
        (("0", "1", "2", "3"), False, NAMES, (0, 1, 2, 3)),
        (("1", "3"), False, NAMES, (1, 3)),
        (("10", "2"), False, tuple(map(str, range(11))), (10, 2)),
        # ImageNetV2 calls its folders so; ImageFolder would take them in alphabetical order
        (tuple(sorted(map(str, range(11)))), False, ELEVEN, (0, 1, 10, *range(2, 10))),
        # and a network's may have none
        (("cat", "dog", "elk", "fox"), False, ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"), None),
        # names that agree vouch for numbers where one name differs
        (("plane", "automobile", "bird", "cat"), True, NAMES, (0, 1, 2, 3)),
    ],
)
def test_classes_are_matched_by_name(names, numbered, network, numbers):
    assert mapped(names, numbered, names=network, count=len(network)) == numbers


@pytest.mark.parametrize(
    ("names", "numbered", "network", "message"),
    [
        (("cat", "dog"), False, NAMES, "own: its class 'dog' is none of the network's 4"),
        (("plane", "automobile", "bird", "cat"), False, NAMES, "did you mean 'airplane'"),
        (("plane", "automobile", "cat", "bird"), True, NAMES, "'plane' is none of"),
        (("Cat", "cat"), False, NAMES, "'Cat' and 'cat' both match the network's class 3"),
        (
            ("crane",),
            False,
            ("crane", "x", "crane"),
            "'crane' matches several of the network's classes, 0 .* and 2",
        ),
        (("1", "2", "3", "4"), False, NAMES, "the network has 4, and nothing says which"),
        (("x", "y", "z", "w"), False, NAMES, "give --classes: the number of each of the 4"),
    ],
)
def test_names_that_match_in_part_or_twice_are_refused(names, numbered, network, message):
    with one_line(message):
        mapped(names, numbered, names=network, count=len(network))


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("network", [(), IMAGENET, HUGGING_FACE, SYNSETS])
@pytest.mark.parametrize("names", [SYNSETS, IMAGENET])
def test_some_of_imagenets_classes_are_found_by_synset_and_by_name(network, names):
    chosen = [names[number] for number in (217, 0, 482, 571)]
    assert mapped(chosen, names=network, count=1000) == (217, 0, 482, 571)
    assert mapped(names, names=network, count=1000) == tuple(range(1000))
    if names == SYNSETS:
        named = [f"{SYNSETS[n]}{between}{IMAGENET[n]}" for n in (7, 3) for between in "_- "]
        assert mapped(named[::3], names=network, count=1000) == (7, 3)


@pytest.mark.parametrize("before", [1, 0], ids=["before", "behind"])
def test_a_network_with_a_class_beside_imagenets_has_imagenets_names_and_synsets(before):
    network = TENSORFLOW if before else (*TENSORFLOW[1:], "background")
    own = partial(mapped, names=network, count=1001)
    for names in (SYNSETS, IMAGENET):
        assert own(names) == own(names, numbered=True) == tuple(range(before, 1000 + before))
        chosen = (217, 0, 482, 571, 3)
        assert own([names[n] for n in chosen]) == tuple(n + before for n in chosen)
    assert own([*SYNSETS[:2], "background"])[2] == (0 if before else 1000)
    assert own(network, numbered=True) == tuple(range(1001))


def test_numbers_are_not_taken_for_those_of_a_network_that_counts_from_its_background(tmp_path):
    """ImageNet's 0 is such a network's 1, and nothing says whether that was seen to."""
    own = partial(mapped, names=TENSORFLOW, count=1001)
    with one_line("nothing says whether these count the network's first class, 'background'"):
        own([f"{n:03}" for n in range(1000)])
    unnamed = DataClasses(tuple(map(str, range(1000))), True, "own", unnamed=True)
    with one_line("give --classes"):
        map_classes(unnamed, WantedClasses(names=TENSORFLOW, count=1001))
    assert own(map(str, range(1001)), numbered=True) == tuple(range(1001))
    assert own(["7", "3"], given="8,4") == (8, 4)
    assert own(["7", "3"], given="number") == (7, 3)


def test_a_name_that_lists_of_imagenet_give_to_two_classes_is_refused():
    with one_line("'crane' matches several of the network's classes, 134 .* and 517"):
        mapped(["crane"], count=1000)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((SYNSETS[3], SYNSETS[9], "other"), "'other' is none of the network's 1,000.*rename it"),
        ((SYNSETS[3], "b"), "'b', a folder without images, is none of .*remove it"),
    ],
)
def test_folders_of_which_some_are_imagenets_are_told_of_the_others(names, message):
    with one_line(message):
        mapped(names, count=1000, empty=("b",))


@pytest.mark.parametrize(
    ("names", "count", "numbers"),
    [
        (("cat", "dog"), 2, None),
        (("cat", "dog"), None, None),
        (("1", "3"), 10, (1, 3)),
        (("001", "003"), 1000, (1, 3)),
    ],
)
def test_a_network_without_names_takes_folders_in_order_or_by_their_numbers(names, count, numbers):
    assert mapped(names, count=count) == numbers


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        (("cat", "dog"), 10, "2 classes .'cat', 'dog'., but the network has 10, and nothing says"),
        (("1", "3"), 1000, "nothing says"),
        (("1", "10"), 10, "nothing says"),
        (("a", "b", "c"), 2, "no images in 'b'.*but the network has 2"),
    ],
)
def test_fewer_or_more_folders_than_classes_are_never_taken_by_place(names, count, message):
    with one_line(message):
        mapped(names, count=count, empty=("b",) if "b" in names else ())
    assert mapped(names, True, count=count) is None  # these numbers are the data's own


# --classes


@pytest.mark.parametrize(
    ("content", "suffix", "numbers"),
    [
        ("\ufeff2\r\n0\r\n", "txt", (2, 0)),
        ("automobile\ncat\n\ndog\nelk\n", "txt", (1, 2)),
        ("cat=3\ndog=1\n", "txt", (3, 1)),
        ("n01 cat\nn01 dog\n", "txt", None),
        ("dog\telk\n", "txt", None),
        ('["automobile", "cat", "dog", "elk"]', "json", (1, 2)),
        ("[3, 2]", "json", (3, 2)),
        ('{"dog": 0, "cat": 2, "emu": 1}', "json", (2, 0)),
        ('{"id2label": {"1": "dog", "0": "x", "2": "cat, felis", "3": "y"}}', "json", (2, 1)),
        (
            '{"0": ["n00000001", "dog"], "1": ["n2", "cat"], "2": ["n3", "z"], "3": "w"}',
            "json",
            (1, 0),
        ),
    ],
)
def test_classes_are_as_the_user_says(tmp_path, content, suffix, numbers):
    path = tmp_path / f"own.{suffix}"
    path.write_text(content)
    if numbers is None:
        with pytest.raises(DataError):
            mapped(("cat", "dog"), count=4, given=str(path))
    else:
        assert mapped(("cat", "dog"), count=4, given=str(path)) == numbers


@pytest.mark.parametrize(
    ("given", "wanted", "numbers"),
    [
        ("3,1", {"count": 4}, (3, 1)),
        ("1,1", {"count": 2}, (1, 1)),  # two of the data's may be one of the network's
        ("tench, n02102040", {"count": 1000}, (0, 217)),
        ("bird,airplane", {"count": 4, "names": NAMES}, (2, 0)),
    ],
)
def test_classes_may_be_listed_on_the_command_line(given, wanted, numbers):
    assert mapped(("a", "b"), given=given, **wanted) == numbers


def test_folders_may_be_called_by_the_networks_numbers():
    assert mapped(("0", "10", "2"), given="number", count=1000) == (0, 10, 2)
    assert mapped(("1", "10", "2"), given="number") == (1, 10, 2)
    with one_line("--classes number: own has a class 'x', which is not a number"):
        mapped(("0", "x"), given="number", count=10)
    with one_line("--classes number: 10 is not a class of the network, whose 10"):
        mapped(("0", "10"), given="number", count=10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "no such file"),
        ("own.txt", "--classes own.txt: no such file; or give numbers"),
        ("3,", "an empty entry between two commas"),
        (",", "an empty entry between two commas"),
        ("3,1,2", "3 numbers, but own has 2 classes"),
        ("3,4", "4 is not a class of the network, whose 4 classes are numbered from 0"),
        ("3,99999999999999999", "is not a class of the network"),
        ("cat,dog", "names of the network's classes are unknown; give numbers"),
        ("cat,dog,elk", "3 names; expected the network's 4, or one for each of 2"),
        ('{"0": "a", "2": "b"}', "2 entries, but none for 1"),
        ('{"0": "a", "1": "b"}', "2 classes, but the network has 4"),
        ('{"cat": 1}', "does not mention the class 'a' of own"),
        ('{"a": [1], "b": 1}', "'a': expected a number or the name"),
        ("[[], 3]", "expected a name, or a list of names"),
        ("[" * 100_000, "not readable as JSON"),
        ("7", "expected a list of names"),
    ],
)
def test_classes_that_make_no_sense_are_one_line(tmp_path, given, message):
    if given[:1] in tuple("{[7"):
        (tmp_path / "own.json").write_text(given)
        given = str(tmp_path / "own.json")
    with one_line(message):
        mapped(("a", "b"), count=4, given=given)


# a whole data set


def write_folder(folder, names, each=6):
    rng = np.random.default_rng(1)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            image = rng.integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(image).save(folder / name / f"{number}.png")


def test_a_mapped_folder_keeps_its_order_and_says_what_became_of_its_classes(tmp_path):
    write_folder(tmp_path, ["bird", "cat"])
    plain = load_dataset(str(tmp_path))
    data = load_dataset(str(tmp_path), classes=WantedClasses(names=NAMES, count=4))
    assert data.ids == plain.ids
    assert data.labels.tolist() == [2 + label for label in plain.labels]
    assert data.classes == NAMES
    np.testing.assert_array_equal(data.images(3, 5), plain.images(3, 5))
    assert data.digest != plain.digest
    (note,) = data.notes
    assert note.endswith(
        "classes by name: 'bird' is 2, 'cat' is 3; 2 of 4 of the network's classes have no images"
    )
    assert data.source["class_map"] == {
        "by": "name",
        "names_from": "the checkpoint",
        "numbers": {"bird": 2, "cat": 3},
    }
    # descending numbers: the folder is sorted by class all the same
    other = load_dataset(str(tmp_path), classes="1,0")
    assert (other.order, other.ids) == ("digest-shuffled", plain.ids)
    assert other.labels.tolist() == [1 - label for label in plain.labels]
    assert len({data.digest, plain.digest, other.digest}) == 3
    json.dumps(other.source)


def test_what_is_warned_of_places_is_not_said_of_classes_that_are_matched(tmp_path):
    write_folder(tmp_path, map(str, range(11)), each=1)
    (tmp_path / "11").mkdir()
    assert len(load_dataset(str(tmp_path)).warnings) == 2
    for classes in ("number", WantedClasses(names=tuple(map(str, range(12))), count=12)):
        data = load_dataset(str(tmp_path), classes=classes)
        assert data.warnings == ()
        assert sorted(data.labels.tolist()) == list(range(11))


def test_labels_that_are_but_numbers_are_the_networks_whatever_it_calls_its_classes(tmp_path):
    np.savez(tmp_path / "own.npz", images=np.full((3, 4, 4), 255, np.uint8), labels=[0, 2, 1])
    for names in (NAMES, ("1", "2", "3", "4"), NAMES[:2]):
        data = load_dataset(str(tmp_path / "own.npz"), classes=WantedClasses(names=names, count=4))
        assert data.labels.tolist() == [0, 2, 1]
        assert len(data.classes) == (3 if len(names) == 2 else 4)


TWELVE = tuple(sorted(map(str, range(12))))
"""as ImageFolder numbers folders that are called by numbers"""


def numbered_alike(tmp_path, count=24):
    """The same pictures, three ways with their numbers as labels, and in folders called so."""
    rng = np.random.default_rng(3)
    images, labels = rng.integers(0, 256, (count, 4, 4, 3), np.uint8), rng.permutation(count) % 12
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    torch.save((torch.from_numpy(images), torch.from_numpy(labels)), tmp_path / "own.pt")
    lines = ["path,label"]
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "own" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "own" / str(label) / f"{row}.png")
        lines.append(f"own/{label}/{row}.png,{label}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    return ("own.npz", "own.pt", "own.csv"), "own"


def by_id(data):
    return dict(zip(data.ids, data.labels.tolist(), strict=True))


@pytest.mark.parametrize("source", range(3))
def test_numbers_are_not_taken_by_place_where_the_network_calls_its_classes_by_others(
    tmp_path, source
):
    sources, folder = numbered_alike(tmp_path)
    place = str(tmp_path / sources[source])
    network = partial(WantedClasses, names=TWELVE, count=12)
    with one_line("calls output 2 '10'; give --classes name if .* --classes number if they are"):
        load_dataset(place, classes=network())
    named = load_dataset(place, classes=network(given="name"))
    assert by_id(named) == by_id(load_dataset(str(tmp_path / folder), classes=network()))
    assert (named.classes, named.source["class_map"]["by"]) == (TWELVE, "name")
    numbered = load_dataset(place, classes=network(given="number"))
    assert by_id(numbered) == by_id(load_dataset(place))
    assert {by_id(named)[one] == label for one, label in by_id(numbered).items()} == {True, False}
    assert numbered.classes == TWELVE


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        # as names and as outputs they mean the same
        ((0, 1), TWELVE, (0, 1)),
        ((0, 2, 3), tuple("0123"), (0, 2, 3)),
        ((0, 1, 2), ("00", "01", "02"), (0, 1, 2)),
        # a label that is no name, or no output
        ((0, 1, 3), tuple("1234"), (0, 1, 3)),
        ((1, 2, 3, 4), tuple("1234"), (0, 1, 2, 3)),
        ((1, 10), tuple(f"{n:02}" for n in range(1, 11)), (0, 9)),
        # either
        ((2, 10), TWELVE, None),
        ((1, 3), tuple("1234"), None),
        ((0, 1), tuple("10"), None),
    ],
)
def test_labels_are_names_or_outputs_as_far_as_only_one_can_be(labels, names, numbers):
    own = tuple(map(str, range(max(labels) + 1)))
    data = DataClasses(own, True, "own", unnamed=True, present=frozenset(labels))
    network = partial(WantedClasses, names=names, count=len(names))
    if numbers is None:
        with one_line("own: its labels are numbers, but the checkpoint calls output"):
            map_classes(data, network())
    else:
        found = map_classes(data, network())
        assert tuple(found.numbers[label] for label in labels) == numbers
    if set(labels) <= set(map(int, names)):
        found = map_classes(data, network(given="name"))
        assert [int(found.names[found.numbers[label]]) for label in labels] == list(labels)
    else:
        with one_line("its class '0' is none of the network's"):
            map_classes(data, network(given="name"))
    if max(labels) < len(names):
        assert map_classes(data, network(given="number")).numbers == tuple(range(len(own)))


def test_a_list_of_names_that_are_numbers_says_that_labels_are_names(tmp_path):
    sources, folder = numbered_alike(tmp_path)
    (tmp_path / "names.json").write_text(json.dumps(dict(enumerate(TWELVE))))
    wanted = WantedClasses(count=12, given=str(tmp_path / "names.json"))
    for source in sources:
        data = load_dataset(str(tmp_path / source), classes=wanted)
        assert by_id(data) == by_id(load_dataset(str(tmp_path / folder), classes=wanted))
    with one_line("--classes name: the names of the network's classes are unknown"):
        load_dataset(str(tmp_path / source), classes="name")


def test_two_networks_that_call_their_classes_by_other_numbers_are_told_apart():
    other = tuple(reversed(TWELVE))
    assert renumbered(TWELVE, other) == "'0' is 11 there, but 0 here"
    assert renumbered(TWELVE, TWELVE) is None
    places = tuple(map(str, range(12)))
    # these say only where none are known
    assert (
        renumbered(places, TWELVE) is renumbered(TWELVE, places) is renumbered(TWELVE, ()) is None
    )


def test_a_class_folder_without_pictures_is_warned_of(tmp_path):
    write_folder(tmp_path, ["b", "c"], each=1)
    (tmp_path / "a").mkdir()
    data = load_dataset(str(tmp_path))
    (warning,) = data.warnings
    assert "no images in the class folder 'a', which still takes label 0" in warning
    with one_line("3 classes ..a., .b., .c., no images in .a.., but the network has 2"):
        load_dataset(str(tmp_path), classes=WantedClasses(count=2))
    with one_line("2 classes, but the data set .* has 3; no images in a: remove what is no class"):
        evaluate(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)), data, "clean")


# a whole command


def digits(folder, names):
    """Some digits of mnist5k in class folders of these names."""
    data = load_dataset("mnist5k", limit=60)
    for row, label in enumerate(data.labels.tolist()):
        if label in names:
            (folder / names[label]).mkdir(parents=True, exist_ok=True)
            picture = np.rint(data.images(row, row + 1)[0, 0] * 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / names[label] / f"{row}.png")


def test_a_data_sets_file_says_which_folder_or_name_stands_at_which_label(tmp_path):
    digits(tmp_path / "photos", {0: "n02", 1: "n01"})
    file = tmp_path / "own.toml"
    head = 'title = "t"\nsource = "SOURCE"\nclasses = ["zero", "one"]\n'
    shown = load_dataset("mnist5k", limit=60)
    zeros = shown.images(0, 60)[shown.labels == 0].mean()

    def holds(text):
        file.write_text(text.replace("SOURCE", "photos"))
        found = load_dataset(str(file))
        images = found.images(0, len(found))
        assert found.classes == ("zero", "one")
        assert images[found.labels == 0].mean() == pytest.approx(zeros, abs=1e-6)

    holds(head + 'folders = ["n02", "n01"]\n')
    (tmp_path / "photos" / "n02").rename(tmp_path / "photos" / "zero")
    (tmp_path / "photos" / "n01").rename(tmp_path / "photos" / "one")
    holds(head)
    kept = shown.labels < 2
    stored = np.rint(shown.images(0, 60) * 255).astype(np.uint8)[kept]
    names = np.array(["one", "zero"])
    np.savez(tmp_path / "own.npz", images=stored, labels=1 - shown.labels[kept], classes=names)
    file.write_text(head.replace("SOURCE", "own.npz"))
    with one_line("own.npz: its classes stand in another order .* 'one', 'zero' first"):
        load_dataset(str(file))


def as_folder(place, rows):
    for number, (picture, name) in enumerate(rows):
        (place / "set" / name).mkdir(parents=True, exist_ok=True)
        (place / "set" / name / f"{number}.png").write_bytes(picture)
    return "set"


def as_table(place, rows):
    lines = [f"{number}.png,{name}" for number, (_, name) in enumerate(rows)]
    for number, (picture, _) in enumerate(rows):
        (place / f"{number}.png").write_bytes(picture)
    (place / "set.csv").write_text("\n".join(["path,label", *lines]))
    return "set.csv"


def as_parquet(place, rows):
    table = [{"image": {"bytes": picture}, "label": name} for picture, name in rows]
    pq.write_table(pa.Table.from_pylist(table), place / "set.parquet")
    return "set.parquet"


def as_tar(place, rows):
    with tarfile.open(place / "set.tar", "w") as archive:
        for number, (picture, name) in enumerate(rows):
            for end, content in (("png", picture), ("cls", name.encode())):
                entry = tarfile.TarInfo(f"{number:04}.{end}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return "set.tar"


def shades(*names):
    """Four pictures a class, those of the first black, of the next one a little brighter."""
    rows = []
    for number, name in enumerate(names * 4):
        stream = io.BytesIO()
        grey = 40 * (number % len(names)) + number // len(names)
        Image.new("L", (4, 4), grey).save(stream, "PNG")
        rows.append((stream.getvalue(), name))
    return rows


OF_TEXT = (as_table, as_parquet, as_tar)
OF_ALL = (as_folder, *OF_TEXT)


@pytest.mark.parametrize(
    ("write", "names", "folders", "refused"),
    [
        (write, *case)
        for writers, *case in (
            # in another order than the alphabet's, which the labels of names are in
            (OF_ALL, ("t-shirt_top", "Ankle boot", "COAT"), (), ""),
            (OF_ALL, ("T-shirt top", "Ankle_boot", "Coat"), (), ""),
            (OF_ALL, ("zero", "one", "b"), ("zero", "one", "b"), ""),
            (OF_TEXT, ("Zero", "one", "b"), ("zero", "one", "b"), ""),
            (OF_TEXT, ("T-shirt/top", "Ankle boot", "Coat"), (), ""),
            ((as_folder,), ("2", "4", "7"), (), ""),
            ((as_folder,), ("2", "10", "7"), (), "the class '10' is none of .* give folders = "),
            (OF_ALL, ("zero", "one", "b"), (), "the class '(b|one|zero)' .* give folders = "),
            (OF_ALL, ("tee", "Ankle boot", "Coat"), (), "the class 'tee' .* give folders = "),
            (OF_ALL, ("coat", "Coat", "Ankle boot"), (), "two classes are called '(coat|Coat)', "),
        )
        for write in writers
    ],
)
def test_names_that_a_data_sets_file_gives_stand_at_the_labels_of_those_classes(
    tmp_path, write, names, folders, refused
):
    source = write(tmp_path, shades(*names))
    described = f'title = "t"\nsource = "{source}"\n'
    described += 'classes = ["T-shirt/top", "Ankle boot", "Coat"]\n'
    if folders:
        described += f"folders = {json.dumps(folders)}\n"
    (tmp_path / "own.toml").write_text(described)
    if refused:
        with one_line(refused):
            load_dataset(str(tmp_path / "own.toml"))
        return
    data = load_dataset(str(tmp_path / "own.toml"))
    assert data.classes == ("T-shirt/top", "Ankle boot", "Coat")
    means = np.rint(255 * data.images(0, len(data)).mean((1, 2, 3)))
    assert [int(mean) // 40 for mean in means] == data.labels.tolist()
    mapped_to = WantedClasses(names=("Coat", "T-shirt/top", "Ankle boot"), count=3)
    moved = load_dataset(str(tmp_path / "own.toml"), classes=mapped_to)
    assert moved.labels.tolist() == [(1, 2, 0)[label] for label in data.labels]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("one", "zero"), "its classes stand in another order than in .*, 'one', 'zero' first"),
        (("One", "zero"), "the class 'One' has the number 0, but .* names 'zero' there"),
        (("null", "zero"), "the class 'zero' has the number 1, but .* names 'one' there"),
        (("null", "eins"), ""),
        (("Zero", "ONE"), ""),
        (("one", "one"), ""),  # as lists of ImageNet call two classes alike
    ],
)
def test_numbered_classes_are_not_renamed_as_one_another(tmp_path, names, message):
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    np.savez(tmp_path / "own.npz", images=images, labels=[1, 0], classes=np.array(names))
    file = tmp_path / "own.toml"
    file.write_text('title = "t"\nsource = "own.npz"\nclasses = ["zero", "one"]\n')
    if message:
        with one_line(message):
            load_dataset(str(file))
    else:
        assert load_dataset(str(file)).classes == ("zero", "one")


def test_a_picture_of_a_kind_that_is_not_offered_is_not_opened(tmp_path):
    """Pillow hands PostScript to another program, and goes by what a file holds."""
    (tmp_path / "C" / "a").mkdir(parents=True)
    (tmp_path / "C" / "b").mkdir()
    for name in ("a/1.png", "b/2.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "C" / name, "EPS")
    with one_line("unreadable image"):
        load_dataset(str(tmp_path / "C")).images(0, 2)


@pytest.mark.thorough
def test_a_subset_of_the_classes_is_evaluated_as_asked_and_told(robustkit, tmp_path):
    digits(tmp_path / "words", {7: "seven", 3: "three", 0: "zero"})
    asked = (
        "evaluate",
        "lenet5-mnist5k",
        "--data",
        "words",
        "--attack",
        "fgsm",
        "--epsilon",
        "0.1",
    )
    status, _, err = robustkit(*asked)
    assert status == 2
    assert "3 classes ('seven', 'three', 'zero'), but the network has 10" in err
    status, out, err = robustkit(*asked, "--classes", "7,3,0", "--json", "-")
    assert status == 0
    (found,) = json.loads(out)
    jsonschema.validate([found], schemas.EVALUATIONS)
    assert found["clean"]["accuracy"] > 0.9
    assert found["data"]["class_map"] == {
        "by": "number",
        "classes": "7,3,0",
        "numbers": {"seven": 7, "three": 3, "zero": 0},
    }
    status, _, err = robustkit(*asked, "--classes", "7,3,0")
    assert "note: words: classes by number: 'seven' is 7, 'three' is 3, 'zero' is 0; 7 of 10" in err


def test_the_names_that_a_checkpoint_has_decide_and_another_network_must_agree(tmp_path):
    digits(tmp_path / "words", {7: "seven", 3: "three"})
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    checkpoint = replace(read_checkpoint("lenet5-mnist5k"), label_names=words)
    data = images_for(checkpoint, str(tmp_path / "words"))
    assert set(data.labels.tolist()) == {3, 7}
    assert data.classes == words
    record = evaluate(checkpoint, str(tmp_path / "words"), "clean", out=tmp_path / "runs")
    assert list(data.notes) == record.header["data"]["notes"]
    assert record.clean().value > 0.9
    check_classes(checkpoint, data)
    check_classes(replace(checkpoint, label_names=()), data)
    other = replace(checkpoint, label_names=words[::-1])
    for refuse in (check_classes, partial(evaluate, attack="clean", out=tmp_path / "runs")):
        with one_line("numbers its classes differently .* 'zero' is 9 there, but 0 here"):
            refuse(other, data)


def test_a_class_of_the_network_that_has_no_name_takes_none_of_the_datas():
    names = tuple("012")
    data = DataClasses(names, False, "own")
    found = map_classes(data, WantedClasses(given="3,1,2"))
    assert found.names == ("class 0", "1", "2", "0")
    assert map_classes(data, WantedClasses(given="0,1,4")).names == ("0", "1", "class 2", "3", "2")
