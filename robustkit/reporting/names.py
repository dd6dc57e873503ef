"""Names fit for files."""

import re
from re import sub

DEVICE = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)")
"""what Windows takes for a device, whatever stands behind its dot"""


class Names:
    """Gives out names that are plain and all different, whatever a system makes of capitals."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, wanted: str) -> str:
        """A name like `wanted` that was not given out before: a-z, 0-9, dot, dash, underscore."""
        plain = sub(r"[^a-z0-9._-]+", "-", wanted.lower())[:60].strip("-.") or "untitled"
        plain = DEVICE.sub(r"\1-", plain)
        name, number = plain, 1
        while name in self._taken:
            name = f"{plain}-{(number := number + 1)}"
        self._taken.add(name)
        return name
