"""What torch.export keeps to itself of the files that it writes: their schema, and its reader of graphs."""

from torch._export.serde import schema
from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE as TORCH_DTYPES
from torch._export.serde.serialize import ExportedProgramDeserializer, deserialize_device
from torch._export.serde.union import _Union as Union

__all__ = [
    "TORCH_DTYPES",  # the file's numbers of dtypes
    "ExportedProgramDeserializer",  # makes the graph of what was read; torch.export.load unpickles
    "Union",  # the base of those records of the schema of which one field is set
    "deserialize_device",  # the file's way to say a device
    "schema",  # what may stand in the file, field by field
]
