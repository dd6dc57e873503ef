"""Networks that are traced once, however often they are certified."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from robustkit.certification import complete, deterministic
from robustkit.certification.graph import BoundGraph


@contextmanager
def traced_once() -> Iterator[list[BoundGraph]]:
    """Within, one network alone is certified; what is given has its graph, once there is one."""
    graphs, real = [], deterministic.graph_of

    def kept(*given):
        if not graphs:
            graphs.append(real(*given))
        return graphs[0]

    with pytest.MonkeyPatch.context() as patch:
        for module in (deterministic, complete):
            patch.setattr(module, "graph_of", kept)
        yield graphs
