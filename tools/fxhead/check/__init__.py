"""``fxhead check``: two models, one certificate, and the same certificate again from its file.

``examine`` makes it, ``artefact`` and ``read_artefact`` are the file, ``replay`` repeats it, ``lines`` show
it.

May import: ``inputs``, ``loading``, ``files``, ``show``. Start in ``run``.
"""
