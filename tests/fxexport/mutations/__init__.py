"""Damage done to models, by kind: what a proof has to refuse."""
