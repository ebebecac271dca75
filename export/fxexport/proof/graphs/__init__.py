"""What the two graphs say: the same operators on the same values, in whatever layouts.

``compare`` walks two heads, ``strict`` two whole graphs, ``folded_norm`` batch norms that an exporter folded,
``run_alone`` tries what is written differently.

May import: ``subjects``, ``terms``, ``numerics``. Start in ``compare``.
"""
