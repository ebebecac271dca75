"""``fxhead batch``: many models, each in a process of its own, on this machine or on a cluster.

``rows`` reads what is to be done, ``process`` does one row within its limits of time and memory, which
``fork_server`` starts, ``store`` keeps what is done (so that nothing is done twice), ``parcel`` sends files
with a row. Where rows are done, here or on a cluster, differs in ``fxhead/executor.py`` alone.

May import: ``executor``, ``check``, ``files``, ``show``, ``page``, ``outcome``. Start in ``run``.
"""
