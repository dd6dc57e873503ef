"""What the images of a data set as a whole say against it."""

from collections.abc import Iterable

from robustkit.errors import DataError

BLACK, DARK = 1.5 / 255, 1 / 4
"""brightest pixel, in [0, 1], up to which a whole data set is refused, and warned of"""


def too_dark(brightest: float, name: str) -> tuple[str, ...]:
    """A warning where all images are so dark that their pixels may be of another scale.

    Raises:
        DataError: they are all but black: 0 and 1 among bytes, bytes among 16 bits, or divided by
            255 twice.
    """
    if not 0 < brightest <= DARK:
        return ()
    if brightest <= BLACK:
        raise DataError(
            f"{name}: the brightest pixel of all images is {brightest * 255:.3g} of 255, so "
            "they are almost black: the range of uint8 is 0 to 255, of 16-bit images 0 to "
            "65,535, of floats 0 to 1; store binary images with 0 and 255, and divide by "
            "255 once, not twice"
        )
    return (
        f"the brightest pixel of all images of {name} is {brightest * 255:.3g} of 255: if "
        "that is the top of their scale, they are too dark for the network; rescale them "
        "so that white is 255",
    )


def contradictions(pixels: Iterable[str], labels: Iterable[int], name: str) -> tuple[str, ...]:
    """A warning where images have the same pixels and several labels.

    Args:
        pixels: a fingerprint for each image.
        labels: one for each.
        name: of the data.
    """
    first: dict[str, int] = {}
    seen = [
        (one, first.setdefault(one, label) == label)
        for one, label in zip(pixels, labels, strict=True)
    ]
    several = {one for one, alike in seen if not alike}
    if not several:
        return ()
    number = sum(one in several for one, _ in seen)
    return (
        f"{number:,} of {len(seen):,} images of {name} have the same pixels as one with another "
        "label: no network is right on both; keep one of each, with the right label",
    )
