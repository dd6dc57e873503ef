"""Numbers and tables of others: within bounds, and at once."""

import time
from fractions import Fraction

import pytest

from robustkit.cli.options import images_per_batch, numbers
from robustkit.errors import InputError
from robustkit.files import read_text, read_toml
from robustkit.parsing import (
    checked_integer,
    ends_in_percent,
    fraction,
    in_percent,
    parse_fraction,
    parse_integer,
    parse_toml,
    share,
    whole,
)
from robustkit.statistics import proportion

ABSURD = [
    "1e999999999",
    "-1e999999999",
    "1e-999999999",
    "1e400",
    "1E+0400",
    "9" * 400,
    "9" * 5000,
    f"1/{'9' * 400}",
    f"0.{'0' * 200}1",
    "1e999999999/3",
    "1/0",
    "0x10",
    "1_0",
    "²",
    "٣",
    "1²",
    "nan",
    "inf",
    "-inf",
    "",
    " ",
    "1 2",
    "1/2/3",
    "e5",
    ".",
]


@pytest.mark.parametrize("text", ABSURD, ids=lambda t: t[:20])
def test_what_is_no_number_or_an_absurd_one_is_refused_at_once_in_one_line(text):
    began = time.process_time()
    with pytest.raises(ValueError, match=r"no number|divides|range"):
        parse_fraction(text)
    with pytest.raises(InputError) as caught:
        fraction(text, "--epsilon")
    assert str(caught.value).startswith("--epsilon: expected a number")
    assert "quotes" not in str(caught.value)  # which a command has none of
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
    for refuse in (lambda: numbers(text, "--mean"), lambda: share(text, "--power")):
        with pytest.raises(InputError):
            refuse()
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", Fraction(8, 255)),
        (" 0.3 ", Fraction(3, 10)),
        ("1e-3", Fraction(1, 1000)),
        ("-.5", Fraction(-1, 2)),
        ("5.", Fraction(5)),
        ("+2", Fraction(2)),
        ("0", Fraction(0)),
        ("0e999", Fraction(0)),
        ("1e100", Fraction(10**100)),
    ],
)
def test_numbers_are_exact(text, value):
    assert parse_fraction(text) == value
    assert fraction(text, "") == value


@pytest.mark.parametrize("value", [10**400, -(10**19), 10**5000, 0.3, True, None, [1]], ids=type)
def test_what_is_no_text_must_be_an_integer_of_64_bits(value):
    with pytest.raises(InputError) as caught:
        fraction(value, "epsilon")
    assert len(str(caught.value)) < 200


def test_integers_are_ascii_digits_that_fit_into_64_bits():
    assert [parse_integer(t) for t in ("7", "-7", " 12 ", "0")] == [7, -7, 12, 0]
    for text in ("²", "٣", "1.0", "", "9" * 20, "9" * 5000, "1e3", "--1"):
        with pytest.raises(ValueError, match="no integer"):
            parse_integer(text)
    assert [whole(t) for t in ("0", "12", "²", "-1", "", "9" * 30)] == [0, 12, None, None] + 2 * [
        None
    ]
    assert checked_integer(10**18, "") == 10**18
    with pytest.raises(InputError, match="64 bits"):
        checked_integer(10**18 + 1, "seed")


@pytest.mark.parametrize("text", ["²", "0", "-1", "9" * 30, "1.5", "all"])
def test_a_batch_size_is_a_number_or_auto(text):
    with pytest.raises(InputError, match=r"--batch-size .*: expected a number above 0, or auto"):
        images_per_batch(text)
    assert images_per_batch("auto") == "auto"
    assert images_per_batch("128") == 128


QUOTED = '"b c"'
DEEP = [f"a = {'[' * n}{']' * n}" for n in (60, 900, 100_000)]
DEEP += [f"{'.'.join('a' * 60)} = 1", f"{'.'.join('a' * 50_000)} = 1"]
DEEP += [f"[{' . '.join(['a', QUOTED] * 20_000)}]", f"{'.'.join([QUOTED] * 50_000)} = 1"]
DEEP += [f"a = {'{a = ' * n}1{'}' * n}" for n in (60, 50_000)]


@pytest.mark.parametrize("text", [*DEEP, f"a = {'9' * 5000}", "a = ", "\0"], ids=lambda t: t[:9])
def test_toml_that_is_too_deep_or_none_is_one_line(tmp_path, text):
    with pytest.raises(ValueError, match=r"."):
        parse_toml(text)
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(InputError, match=r"x\.toml: not readable as TOML") as caught:
        read_toml(tmp_path / "x.toml")
    assert "\n" not in str(caught.value)


def test_what_is_not_utf_8_is_one_line(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b'title = "\xff\xfe"')
    for read in (read_toml, read_text):
        with pytest.raises(InputError, match=r"x\.toml: not readable as (text|TOML): .*utf-8"):
            read(path)
    with pytest.raises(InputError, match="Is a directory"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.966, "96.6"),
        (0.9996, "99.96"),
        (0.99999, "99.999"),
        (0.0004, "0.04"),
        (1 / 60_000, "0.002"),
        (0.0, "0.0"),
        (1.0, "100.0"),
        (1 - 1e-12, "100.0"),
        (-0.0003, "-0.0"),
    ],
)
def test_a_share_is_told_as_none_or_all_only_where_it_is(share, told):
    assert in_percent(share) == f"{told}\u00a0%"


def test_a_share_in_whole_per_cent_stays_so():
    assert in_percent(0.996, 0) == "100\u00a0%"


@pytest.mark.parametrize(
    ("count", "n", "told"),
    [
        (0, 10_000, "0.00 to 0.04"),
        (10_000, 10_000, "99.96 to 100.00"),
        (49_999, 50_000, "99.99 to 100.00"),
        (1, 50_000, "0.00 to 0.01"),
        (60, 60, "94.0 to 100.0"),
        (0, 60, "0.0 to 6.0"),
        (451, 1000, "42.0 to 48.2"),
    ],
)
def test_the_ends_of_an_interval_are_apart_and_hold_what_is_between_them(count, n, told):
    found = proportion(count, n)
    said = ends_in_percent(found.low, found.value, found.high)
    assert said == told
    low, high = map(float, said.split(" to "))
    assert low <= float(in_percent(found.value).removesuffix("\u00a0%")) <= high
    assert low < high


def test_an_interval_of_one_number_is_one():
    assert ends_in_percent(0.0, 0.0, 0.0) == "0.0 to 0.0"
    assert ends_in_percent(0.5, 0.5, 0.5) == "50.0 to 50.0"
