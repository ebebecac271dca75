"""What is asked of an ONNX graph before it is read: its shapes, its bytes, its constants.

May import: ``onnx_node``, ``terms``, ``untrusted``. Start in ``shapes``.
"""
