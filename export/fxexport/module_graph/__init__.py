"""Reads a module's graph as terms: its operators, pools, sites and signature.

May import: ``terms``, ``onnx_graph``'s records, ``fxpasses``. Start in ``terms``.
"""
