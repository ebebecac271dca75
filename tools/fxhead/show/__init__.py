"""What a person sees: tables that fit, units, progress; ``render`` alone prints.

May import: ``outcome``. Start in ``render``.
"""
