"""What is certified: a module, a program or a file, behind one interface.

``models`` opens each once, ``module_subject`` and ``onnx_subject`` run it, ``samples`` are what it is run on,
``many_places`` picks where to look in a large output.

May import: ``module_graph``, ``onnx_graph``, ``to_onnx``, ``terms``. Start in ``subject``.
"""
