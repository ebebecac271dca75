"""Terms: what a value is, apart from how its graph spells it.

``term`` is the record, ``pool_first`` writes heads before their pool as heads behind it.

May import: numpy only. Start in ``term``.
"""
