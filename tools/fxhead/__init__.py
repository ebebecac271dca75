"""The ``fxhead`` command line: files in, files out, over ``fxpasses`` and ``export``."""

__version__ = "0.1.0"
