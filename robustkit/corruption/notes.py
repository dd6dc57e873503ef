"""What a reader of corrupted accuracies must know, in sentences."""

from collections.abc import Iterable, Sequence

from robustkit.corruption.tables import parameters
from robustkit.statistics.comparison import listed

_ALWAYS: dict[str, str] = {
    "frost": "the ice is made at random with the mean colours, contrasts and spectra of the five "
    "photographs that the benchmarks draw from, which are not shipped; the scores are not theirs",
}
_NOT_SQUARE: dict[str, str] = {
    "zoom-blur": "enlarged in height and width alike, where the benchmarks know square images only",
    "snow": "enlarged in height and width alike, where the benchmarks know square images only",
}
_GREY: dict[str, str] = {
    "gaussian-noise": "one draw for the grey value, where images turned to colour have three",
    "shot-noise": "one draw for the grey value, where images turned to colour have three",
    "impulse-noise": "one draw for the grey value, where images turned to colour have three",
    "frost": "the ice is grey: the luma of its colour",
    "jpeg-compression": "written as a grey JPEG, without the chroma of one turned to colour",
}


def departure_notes(
    names: Sequence[str], height: int, width: int, channels: int
) -> tuple[str, ...]:
    """Every way in which corruptions depart from the published benchmark, a sentence each.

    Empty where the size has a table of its own and nothing else is different.

    Raises:
        UnknownName: no such corruption.
        InputError: images that are too small.
    """
    concerned: dict[str, list[str]] = {}
    for name in names:
        for sentence in _departures(name, height, width, channels):
            concerned.setdefault(sentence, []).append(name)
    return tuple(f"{listed(those)}: {sentence}" for sentence, those in concerned.items())


def _departures(name: str, height: int, width: int, channels: int) -> Iterable[str]:
    used = parameters(name, height, width)
    if used.side != used.table:
        yield f"constants: {used.source}"
    if name in _ALWAYS:
        yield _ALWAYS[name]
    if height != width and name in _NOT_SQUARE:
        yield _NOT_SQUARE[name]
    if channels == 1 and name in _GREY:
        yield _GREY[name]
