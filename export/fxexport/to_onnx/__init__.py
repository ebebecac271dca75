"""Writes a model as an ONNX file, with the head as compilers look for it.

``write`` is the export, ``canonical_head`` the head's spelling, ``dynamic_size`` free height and width,
``keep_batch_norms`` keeps trained weights as they are.

May import: ``onnx_node``, ``language``, ``untrusted``. Start in ``write``.
"""
