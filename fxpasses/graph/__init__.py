"""Graphs as PyTorch makes them: how a model becomes one, and how it is closed again.

A module is traced (``trace``) or exported (``export_trace``); a program is opened and closed (``program``).
``tree`` is the module tree that holds the parameters, ``shapes`` runs a graph on fake tensors, ``maps``
are those among its outputs. ``held`` is what a model holds beside its parameters, and puts it back.

May import: ``errors``, ``report``. Start in ``trace``.
"""
