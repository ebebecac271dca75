"""``python -m fxhead``."""

import os
import sys

# Python puts the working directory first; a file in it that is called like a library is not one
if sys.path and os.path.isabs(sys.path[0]) and os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()):
    del sys.path[0]

from fxhead.cli import run

run()
