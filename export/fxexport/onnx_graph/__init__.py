"""Reads an ONNX file as terms: its operators with their defaults, shapes, sites and signature.

``operators`` answers questions to one operator, ``terms`` reads the whole graph.

May import: ``terms``, ``untrusted``. Start in ``operators``.
"""
