"""Heads: what is behind a pool, how its values are laid out, and the rewrite between the two forms.

``region`` gives every pooled value a ``layout``; ``cancel`` decides which views move, since a view moves
only where the move ends in a cancellation; ``component`` does the edit; ``refusals`` says where the
arithmetic does not fit, ``headless`` what a model without a head has instead.

May import: ``engine``, ``graph``, ``vocabulary``. Start in ``region``.
"""
