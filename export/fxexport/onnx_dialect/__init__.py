"""Opens an ONNX file for the passes, and writes back what they changed: one more dialect of the same graphs.

``content`` walks the file, ``open`` makes the graph of it by the readers in ``reading``; ``close`` writes the
difference by ``writer``, as ``pieces`` of the old file. ``rewrite`` puts them together.

May import: ``onnx_node``, ``onnx_graph``, ``untrusted``. Start in ``rewrite``.
"""
