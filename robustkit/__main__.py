"""`python -m robustkit`."""

from robustkit.cli import start

start()
