"""What a model is run on: shapes (given, known or guessed), arrays, images, random samples.

May import: ``loading``, ``show.progress``. Start in ``shapes``, then ``samples``.
"""
