"""What of two models is compared with what: ``outputs`` by name or place, and ``heads`` from there down.

``derivation`` says whether identities turn one into the other.

May import: ``subjects``, ``terms``. Start in ``heads``.
"""
