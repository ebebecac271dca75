"""``fxhead rewrite``, the main job: both forms, both files, the plan and the certificate.

Not called ``rewrite``: a folder of that name would hide the function ``fxhead.rewrite``.

May import: ``check`` and below. Start in ``run``.
"""
