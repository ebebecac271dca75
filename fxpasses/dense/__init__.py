"""The form ``dense``: the head's convolution before its pool, which gives a map of class scores.

``find`` says which heads may be moved, ``commute`` which ops a pool passes and why, ``edit`` moves the pool.

May import: ``heads``, ``engine`` and below. Start in ``commute``.
"""
