"""The commands, one a file: click's options in, the job's own options out. Nothing here imports torch.

May import: every room, inside of functions. Start in ``options``.
"""
