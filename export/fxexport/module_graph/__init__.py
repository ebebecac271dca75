"""Reads a graph as terms: a module's as it was traced, or an ONNX file's as the passes open it.

``terms`` reads any graph, ``of_file`` opens a file for it; what a module does beside its graph is found by
``outside_graph`` and ``own_code``.

May import: ``terms``, ``numerics``, ``onnx_dialect``, ``fxpasses``. Start in ``terms``.
"""
