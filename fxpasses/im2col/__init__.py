"""The form ``unfold``: a convolution as one matrix product of its unfolded patches.

``find`` says which convolutions and back, ``patches`` and ``columns`` how patches lie in columns, ``memory``
what that takes, ``edit`` and ``writer`` write it.

May import: ``engine`` and below. Start in ``patches``.
"""
