"""Weights in two forms: how one moves (``move``), and what else is saved beside it.

``optimizer_state`` moves an optimiser's state along, ``wrappers`` looks through what training puts around a
model, ``saved_state`` at what is given as a state dict.

May import: ``errors``, ``report``. Start in ``move``.
"""
