"""One vocabulary for every dialect: a node becomes a typed op, and a typed op becomes a node.

``tables`` and ``modules`` know the spellings, ``handlers`` and ``column_handlers`` bind every argument by
name, ``ops`` are the typed ops, ``writer`` spells one in the dialect of the node that it replaces. ``sizes``,
``constants`` and ``questions`` read what a node says of extents, of values and beside its typed op.

May import: ``graph``. Start in ``ops``, then ``vocabulary``.
"""
