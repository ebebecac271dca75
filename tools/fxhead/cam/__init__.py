"""``fxhead cam``: where in an image each class gets its score, drawn over the image.

``scorer`` runs the model in dense form, ``picture`` and ``overlay`` draw, ``find_images`` and
``run_images`` go through a folder.

May import: ``rewriting``, ``inputs``, ``loading``, ``show``. Start in ``run``.
"""
