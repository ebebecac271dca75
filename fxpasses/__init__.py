"""Rewrites classifier heads between their Linear and their 1×1-convolution form."""
