"""The certificate's layers and its verdict; ``graphs``, ``measured`` and ``wiring`` establish them.

May import: its own folders, ``subjects`` and below. Start in ``verdicts``.
"""
