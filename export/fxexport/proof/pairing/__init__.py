"""What of two models is compared with what: ``outputs`` by name or place, and ``heads`` from there down.

May import: ``subjects``, ``terms``. Start in ``heads``.
"""
