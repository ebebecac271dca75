"""How much a file may ask for, whatever its kind: beyond these, a reader refuses it and names the limit.

Each limit is at least ten times what the largest file of a public model zoo needs, and keeps a reader
within about a minute and three gigabytes.
"""

from __future__ import annotations

# --- pickles -------------------------------------------------------------------------------------

MAX_PICKLE_INSTRUCTIONS = 4_000_000
MAX_PICKLE_BYTES = 1 << 30
MAX_LINE_BYTES = 1 << 16
"""Of a name or number that is written as a line of text."""
MAX_EXPANDED_OBJECTS = 20_000_000
"""What is shared counts as often as it is met: whoever walks, compares or copies it pays for each time."""
MAX_OBJECT_DEPTH = 120

# --- tensors -------------------------------------------------------------------------------------

MAX_DIMENSIONS = 64
"""torch has no tensors of more."""
MAX_ELEMENTS = 1 << 48
MAX_EXPANDED_ELEMENTS = 1 << 24
"""Of an expanded tensor beyond those that it stores: more would be a bomb for whoever copies it."""

# --- programs ------------------------------------------------------------------------------------

MAX_PROGRAM_BYTES = 1 << 28
MAX_PROGRAM_VALUES = 10_000_000
MAX_PROGRAM_DEPTH = 100
MAX_TEXT = 100_000
"""Characters of a text that only people read, such as a stack trace."""
MAX_TREE_DEPTH = 40

# --- expressions in programs ---------------------------------------------------------------------

MAX_EXPRESSION = 10_000
"""Characters."""
MAX_EXPRESSION_NODES = 2_000
MAX_EXPRESSION_DEPTH = 60
MAX_EXPRESSION_BITS = 4_096
"""Of the largest integer that it could have as its value."""
MAX_EXPRESSION_TERMS = 2_000
"""Once every product is multiplied out."""
MAX_EXPONENT = 16
MAX_SYMBOL_DIGITS = 5
"""torch counts up to the number in a symbol's name."""
MAX_PROGRAM_EXPRESSION_NODES = 5_000_000
"""Of all expressions of a program together."""

# --- source texts of GraphModules ----------------------------------------------------------------

MAX_CODE = 20_000_000
MAX_CODE_NESTING = 60
MAX_INTEGER_BITS = 4_096
"""Of an integer that a graph computes from sizes."""
MAX_SEQUENCE = 100_000
"""Elements of a tuple or list, or characters of a text, that a graph makes."""

# --- ONNX ----------------------------------------------------------------------------------------

MAX_INLINED_NODES = 1_000_000
"""Of a graph once every function is written out where it is called."""
