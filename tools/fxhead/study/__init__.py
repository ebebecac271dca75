"""``fxhead study``: does a Linear head learn otherwise than the same head as a 1×1 convolution?

``jobs`` trains every seed of every setting, ``statistics`` compares them, ``verdict`` says what that shows.

May import: ``show``, ``files``; scipy, scikit-learn and matplotlib come with the extra. Start in ``run``.
"""
