"""What the user names as SOURCE; read from the text alone, so without torch."""

from __future__ import annotations

import dataclasses
import enum
import os
import re
from pathlib import Path

_CALLABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_IN_FILE = re.compile(r"(?:\./)?((?:[^\W\d]\w*/)*[^\W\d]\w*)\.py(:.+)")
"""A callable named by its file, as other tools take it."""
_TORCHVISION, _TIMM = "torchvision:", "timm:"

_INNER = (".pt", ".pth", ".ckpt")

FORMS = (
    "a .pt, .pth or .pt2 file, a folder with config.json, torchvision:NAME, timm:NAME, or "
    "package.module:callable"
)
_HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def stem_and_suffix(path: Path) -> tuple[str, str]:
    """A file's name in two; of ``best.pth.tar``, as torch's examples call it, ``best`` and ``.pth.tar``."""
    inner = Path(path.stem)
    if path.suffix.lower() == ".tar" and inner.suffix.lower() in _INNER:
        return inner.stem, inner.suffix + path.suffix
    return path.stem, path.suffix


class SourceKind(enum.StrEnum):
    """Where a model comes from."""

    FILE = "file"
    ONNX = "onnx"
    FOLDER = "folder"
    TORCHVISION = "torchvision"
    TIMM = "timm"
    CALLABLE = "callable"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A SOURCE argument.

    Attributes:
        name: the path, torchvision's or timm's name of the model, or ``package.module:callable``.
    """

    text: str
    kind: SourceKind
    name: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """The source that ``text`` names; a file unless it reads as something else."""
        if text.startswith(_TORCHVISION):
            return cls(text=text, kind=SourceKind.TORCHVISION, name=text.removeprefix(_TORCHVISION))
        if text.startswith(_TIMM):
            return cls(text=text, kind=SourceKind.TIMM, name=text.removeprefix(_TIMM))
        in_file = _IN_FILE.fullmatch(text)
        name = in_file[1].replace("/", ".") + in_file[2] if in_file else text
        if _CALLABLE.fullmatch(name) and not os.path.exists(text):
            return cls(text=text, kind=SourceKind.CALLABLE, name=name)
        if os.path.isdir(text):  # which says no of what is no name at all
            return cls(text=text, kind=SourceKind.FOLDER, name=text)
        kind = SourceKind.ONNX if text.lower().endswith(".onnx") else SourceKind.FILE
        return cls(text=text, kind=kind, name=text)

    @classmethod
    def parse_architecture(cls, text: str) -> Source:
        """The source that ``--arch`` names: the same, but that a bare name is torchvision's."""
        return cls.parse(
            f"{_TORCHVISION}{text}" if text.isidentifier() and not os.path.exists(text) else text
        )

    @property
    def path(self) -> Path | None:
        """The file that it is read from, of a folder that of the weights; or None."""
        if self.kind is SourceKind.FOLDER:
            files = [Path(self.name, name) for name in _HUB_WEIGHTS]
            return next((file for file in files if file.is_file()), files[0])
        return Path(self.name) if self.kind in (SourceKind.FILE, SourceKind.ONNX) else None

    @property
    def stem(self) -> str:
        """What its outputs are called after."""
        if self.kind is SourceKind.FOLDER:
            return Path(self.name).absolute().name
        if self.path is not None:
            return stem_and_suffix(self.path)[0]
        # a name of timm may have a tag: resnet18.a1_in1k
        return re.split(r"[:/]" if self.kind is SourceKind.TIMM else r"[.:]", self.name)[-1]

    @property
    def folder(self) -> Path:
        """Where its outputs go unless the user says otherwise."""
        place = Path(self.name) if self.kind is SourceKind.FOLDER else self.path
        return Path() if place is None else place.parent
