"""Files that anybody may have written: looked at, never believed, and nothing in them run.

``pickles`` reads the records of a pickle without unpickling, ``plain_objects`` makes data and tensors of
them, ``allowed`` says which other names it may hold, ``archive`` and ``torch_archives`` what a zip file may
be. ``program_archive`` reads a ``.pt2`` by the schema in ``program_schema``. Every name in a file has a type
of ``names``, and every bound is in ``limits``.

May import: ``fxpasses`` only. Start in ``pickles``.
"""
