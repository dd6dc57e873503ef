"""What a reader of corrupted accuracies must know, in sentences."""

from robustkit.corruption.tables import parameters

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


def notes(name: str, height: int, width: int, channels: int) -> tuple[str, ...]:
    """Every way in which a corruption departs from the published benchmark, a sentence each.

    Empty where the size has a table of its own and nothing else is different.

    Raises:
        UnknownName: no such corruption.
        InputError: images that are too small.
    """
    used = parameters(name, height, width)
    found = []
    if used.side != used.table:
        found.append(f"constants: {used.source}")
    found += [_ALWAYS[name]] if name in _ALWAYS else []
    found += [_NOT_SQUARE[name]] if height != width and name in _NOT_SQUARE else []
    found += [_GREY[name]] if channels == 1 and name in _GREY else []
    return tuple(f"{name}: {sentence}" for sentence in found)
