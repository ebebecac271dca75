"""The form ``fcn``: the head on every window of the map, as a fully convolutional network.

``find`` says which heads, ``edit`` puts the window pool and the convolution there, ``native_size`` is the
input size at which there is one window.

May import: ``heads``, ``engine`` and below. Start in ``find``.
"""
