"""What packages promise: every name that one lists can be had from it."""

import importlib
import pkgutil

import pytest

import robustkit

PACKAGES = sorted(
    m.name
    for m in pkgutil.walk_packages(robustkit.__path__, "robustkit.")
    if m.ispkg and "_shipped" not in m.name
)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_exists(name):
    package = importlib.import_module(name)
    assert not [n for n in getattr(package, "__all__", ()) if not hasattr(package, n)]
