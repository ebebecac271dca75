"""What every rewrite stands on: matches, guards, edits and the way back.

``match`` is a site with all that a rewrite needs, ``refusals`` what forbids it, ``uses`` who else reads its
weights, ``reshape`` puts weights into the other form over the same storage, ``undo`` writes an edit down so
that ``edit`` can take it back exactly, ``fake_values`` keeps ``meta["val"]`` true, ``outputs`` adds maps.

May import: ``graph``, ``vocabulary``, ``weights``. Start in ``match``, then ``edit``.
"""
