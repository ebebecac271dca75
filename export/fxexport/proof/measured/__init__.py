"""What running the two models shows: values against rigorous bounds, features, decisions, maps.

May import: ``proof.pairing``, ``subjects`` and below. Start in ``measure``.
"""
