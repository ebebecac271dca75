"""Terms: what a value is, apart from how its graph spells it.

``term`` is the record, ``axis_parts`` how an axis runs over another's parts, ``gathers`` selections along it,
``layout_free`` terms that are equal in whatever layout they are held, ``pool_first`` heads before their pool.

May import: numpy only. Start in ``term``.
"""
