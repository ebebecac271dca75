"""``fxhead explain``: what a miss code means, what to do about it, and an example that has it.

May import: ``show``. Start in ``run``.
"""
