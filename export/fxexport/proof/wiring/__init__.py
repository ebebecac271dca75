"""Each site alone, on inputs for which floating point is exact: every weight is in its place, or it shows.

May import: ``proof.measured``, ``subjects`` and below. Start in ``probe_site``.
"""
