"""Sites anywhere (scope ``all``): a Linear on the last axis is a 1×1 convolution in another order of axes.

``find`` says which, ``frames`` and ``placement`` where values change their order (a minimum cut of the
graph), ``edit`` moves the permutes there, ``respell`` rewrites what stands between.

May import: ``heads``, ``engine`` and below. Start in ``find``.
"""
