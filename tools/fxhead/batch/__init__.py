"""``fxhead batch``: many models, each in a process of its own, on this machine or on a cluster.

``rows`` reads what is to be done, ``process`` does one row within its limits of time and memory, ``store``
keeps what is done (so that nothing is done twice), ``executor`` says where rows are done: local and cluster
differ in that file alone.

May import: ``files``, ``show``, ``page``, ``outcome``. Start in ``run``.
"""
