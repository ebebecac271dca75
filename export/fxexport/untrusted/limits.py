"""How much a file may ask for, whatever its kind: beyond these, a reader refuses it and names the limit.

Each limit is at least ten times what the largest file of a public model zoo needs, and keeps a reader
within about a minute and three gigabytes. Beside them, all that a command does with what it reads has one
budget of seconds and memory, which grows with the files (``fxpasses.wall.clock``).
"""

from __future__ import annotations

MAX_HOLE_BYTES = 1 << 34
"""Of a file, what lies on no disk: a terabyte of it takes a command a terabyte's time to read."""

# --- archives ------------------------------------------------------------------------------------

MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 1 << 25
"""Of all members' names and sizes, which are read before they can be counted."""
MAX_INFLATION = 200
"""Above it a compressed member is a bomb; weights hardly compress, JSON compresses 10 to 50 times."""
MAX_INFLATED_BYTES = 1 << 30

# --- pickles -------------------------------------------------------------------------------------

MAX_PICKLE_INSTRUCTIONS = 2_000_000
MAX_HEADER_INSTRUCTIONS = 100_000
"""Of the small pickles before and behind the content, in the format before zip."""
MAX_PICKLE_BYTES = 1 << 30
MAX_ARGUMENT_BYTES = 1 << 28
"""Of one text or number, which Python may make four times as large, in a call that nothing stops."""
MAX_NUMBER_BITS = 8_192
"""Of one number; Python writes none of more than 4,300 digits."""
MAX_LINE_BYTES = 1 << 16
"""Of a name or number that is written as a line of text."""
MAX_EXPANDED_OBJECTS = 20_000_000
"""What is shared counts as often as it is met: whoever walks, compares or copies it pays for each time."""
MAX_OBJECT_DEPTH = 120

MAX_MODULES = 20_000
"""Of a pickled model, those that are shared counted as often as they are met, as they are called."""

# --- tensors -------------------------------------------------------------------------------------

MAX_DIMENSIONS = 64
"""torch has no tensors of more."""
MAX_ELEMENTS = 1 << 48
MAX_EXPANDED_ELEMENTS = 1 << 24
"""Of an expanded tensor beyond those that it stores: more would be a bomb for whoever copies it."""

MAX_SAFETENSORS_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""

MAX_CONFIG_INTEGER = 1 << 20
"""Of any size or count in a model's configuration."""

MAX_LIST_BYTES = 1 << 24
"""Of a list of names that is written by hand."""

MAX_SAMPLE_BYTES = 1 << 30
"""Of one random sample for all that a model says of its inputs, with eight bytes a number."""

MAX_TENSOR_BYTES = 1 << 31
"""Of a tensor that a graph makes,"""
MAX_TENSOR_GROWTH = 256
"""or so many times the bytes of its inputs, if that is more."""

MAX_WINDOW_STEPS = 1 << 36
"""Elements that one operator goes over for all of its outputs; more would take it longer than all may."""

# --- texts -------------------------------------------------------------------------------------------

MAX_JSON_VALUES = 10_000_000
MAX_JSON_NAME = 1 << 16
"""Of an object's entry: what differs, or is wrong, is told by it."""

# --- programs ------------------------------------------------------------------------------------

MAX_PROGRAM_BYTES = 1 << 28
MAX_PROGRAM_VALUES = 10_000_000
MAX_PROGRAM_NODES = 50_000
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
MAX_GUARDS = 20_000
"""Comparisons that a program asks of its inputs, one by one."""
MAX_PROGRAM_EXPRESSION_NODES = 5_000_000
"""Of all expressions of a program together."""

# --- source texts of GraphModules ----------------------------------------------------------------

MAX_CODE = 3_000_000
"""Python takes up to 730 bytes for a character of source text, in a call that nothing stops."""
MAX_CODE_NESTING = 60
MAX_INTEGER_BITS = 4_096
"""Of an integer that a graph computes from sizes."""
MAX_SEQUENCE = 100_000
"""Elements of a tuple or list, or characters of a text, that a graph makes."""

# --- ONNX ----------------------------------------------------------------------------------------

MAX_INLINED_NODES = 50_000
"""Of a graph once every function is written out where it is called."""
MAX_FAN = 10_000
"""Values that one operator reads or gives, or a graph: runtimes look at each for each, in calls that nothing
stops."""
MAX_COUNT = (1 << 31) - 1
"""Of an attribute: runtimes take the lower half of more, and divide by it."""
MAX_MESSAGE_BYTES = (1 << 31) - 1
"""The limit of protobuf itself."""
MAX_DECODED_BYTES = 1 << 29
"""Of a file, what is not numbers as the machine has them: it is copied several times."""
MAX_FIELDS = 1_000_000
"""Of the messages in a file that are looked into; two bytes can be one."""
MAX_INFERENCE_BYTES = 1 << 29
"""Of memory for the shapes of a graph's values."""
MAX_WINDOW = 1 << 13
"""Along one axis: a kernel goes over all of it for each of its outputs, in a call that nothing stops."""
MAX_SITES = 1_000
"""Layers of one model's heads: each of them is run alone."""
