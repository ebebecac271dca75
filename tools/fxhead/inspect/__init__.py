"""``fxhead inspect``: sites, what they can become, and why the other candidates are none.

May import: ``rewriting.memory_lines``, ``inputs``, ``loading``, ``show``. Start in ``run``.
"""
