"""``python -m fxhead``."""

from fxhead.cli import run

run()
