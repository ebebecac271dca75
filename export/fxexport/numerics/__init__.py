"""Rigorous floating-point bounds: how far rounding alone can take a result, in float64.

``bounds`` is Higham's, ``activations`` how far each lets an error grow, ``evaluate`` runs a head in float64
beside its bound.

May import: ``terms``. Start in ``bounds``.
"""
