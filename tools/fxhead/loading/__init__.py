"""From a file or a name to a model, with no code of the file run.

``recognise`` tells what a file is by its content, ``unpickle`` and ``objects`` make the objects that a
pickle describes, ``graph_modules`` and ``graph_code`` read a GraphModule's source, ``state_dicts`` fits
weights to an architecture.

May import: ``files``, ``source``, ``fxexport.untrusted``. Start in ``load``.
"""
