"""``fxhead schema``: the JSON documents that fxhead writes, as JSON Schemas.

They are made of the types that the documents are written from, so that they cannot say anything else.

May import: ``check``, ``batch``, ``files``, ``outcome``. Start in ``documents``.
"""
