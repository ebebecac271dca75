"""The certificate's layers and its verdict; ``pairing``, ``measured`` and ``wiring`` establish them.

May import: its own folders, ``subjects`` and below. Start in ``verdicts``.
"""
