"""``fxhead convert-weights``: a checkpoint in the other form, byte for byte but for what moves.

``zip_stream``, ``legacy_stream`` and ``safetensors_stream`` read each container without loading it,
``survey`` finds the tensors and the optimiser's state, ``edits`` says what changes.

May import: ``loading``, ``files``, ``show``. Start in ``run``.
"""
