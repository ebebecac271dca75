"""Files that a command writes: all of them or none (``publish``), the same bytes for the same model.

May import: ``outcome`` and below. Start in ``publish``.
"""
