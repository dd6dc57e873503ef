"""How far something is that tells it only now and then, and how long the rest takes."""

import time

KNOWN = 0.01
"""share of the work after which its time can be told"""
AHEAD = 0.05
"""share that may be shown beyond what was told"""
LAST = 0.99
"""the largest share shown before the end"""


class Pace:
    """A share of the work, read at any moment: between two that are told time goes on.

    On a large network a pass takes long, and until it ends nothing new is told.
    """

    def __init__(self, done: float = 0.0) -> None:
        """`done`: the share that was done before, which took no time."""
        self.before = self.told = self.shown = done
        self.begun = self.at = time.monotonic()
        self.gap = 0.0
        """longest time between two that were told, in seconds"""

    def tell(self, share: float) -> None:
        """It is so far."""
        now = time.monotonic()
        self.gap = max(self.gap, now - self.at)
        self.told, self.at = share, now

    @property
    def share(self) -> float:
        """The share by now; it never falls."""
        self.shown = max(self.shown, self._expected)
        return self.shown

    @property
    def to_go(self) -> str:
        """'2 min to go'; nothing while that cannot be told."""
        return f"{span(self._whole * (1 - self._expected))} to go" if self._whole else ""

    @property
    def _expected(self) -> float:
        """The share as last told and what came since, within bounds.

        It waits where nothing was told for longer than ever; a few first passes tell little of how
        long all take; and the end is told by who does the work.
        """
        if not self._whole:
            return self.told
        waited = min(time.monotonic() - self.at, self.gap)
        return max(self.told, min(self.told + min(waited / self._whole, AHEAD), LAST))

    @property
    def _whole(self) -> float:
        """Seconds that all of the work takes, at the pace so far; 0 while that cannot be told."""
        done = self.told - self.before
        return (self.at - self.begun) / done if done > KNOWN * (1 - self.before) else 0.0


def span(seconds: float) -> str:
    """'12 s', '3 min', '2.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{round(seconds / 60)} min"
