"""Commands inside the wall: what they read can do nothing but be read, unless the user vouches for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

from fxhead.loading.load import FileOptions
from fxhead.source import Source, SourceKind
from fxpasses.wall.wall import walled


@contextlib.contextmanager
def held(
    sources: Sequence[Source],
    loading: FileOptions,
    note: Callable[[str], None],
    *,
    may_download: bool = True,
    has_files: bool = True,
) -> Iterator[None]:
    """Within it nothing that is read starts a program, reaches the network or writes elsewhere.

    ``--trust`` and callables of the user's own switch that off, and a note says so.

    Where no files may be read beside the sources (``has_files``), what a package's own model takes is not
    limited.
    """
    named = [*sources, *([] if loading.arch is None else [Source.parse_architecture(loading.arch)])]
    own = [source.text for source in named if source.kind is SourceKind.CALLABLE]
    if loading.trust or own:
        what = "--trust" if loading.trust else f"{own[0]} is code of yours"
        note(f"{what}: what the models run is not held back, and may start programs and write files")
        yield
        return
    weights = getattr(loading, "weights", None)
    is_packaged = all(source.kind in (SourceKind.TORCHVISION, SourceKind.TIMM) for source in sources)
    is_limited = has_files or not is_packaged or (weights is not None and os.path.exists(weights))
    where = " and ".join(dict.fromkeys(source.text for source in sources))
    with walled(where, may_download=may_download, is_limited=is_limited):
        yield
