"""Files that anybody may have written: looked at, never believed, and nothing in them run.

``pickles`` reads the records of a pickle without unpickling, ``allowed`` says which names it may hold,
``archive`` and ``torch_archives`` what a zip file may be, ``program_guard`` what a ``.pt2`` may say.

May import: ``fxpasses`` only. Start in ``pickles``.
"""
