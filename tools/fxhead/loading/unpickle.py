"""Pickled files → objects: safely by default, and by running their code where the user says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxexport.untrusted.allowed import Allowed
from fxexport.untrusted.pickle_records import Global, Made, PlainDict
from fxexport.untrusted.refused import Refused
from fxexport.untrusted.tensors import ArchiveStorages, LegacyStorages, Storages
from fxhead.loading.architectures import importable_here
from fxhead.loading.graph_modules import make_graph_module
from fxhead.loading.module_schema import require_few
from fxhead.loading.objects import Objects
from fxhead.loading.recognise import Container, FileKind
from fxpasses.errors import FileError, brief

_MAX_NAMES = 8
_MOST_CLASSES = 3
"""Of more, the packages are named."""


def require_allowed(container: Container, allowed: Allowed, record: Any = None) -> None:
    """Returns where every name in the file may become real.

    ``record`` is the part of its pickle that is wanted; None takes the whole, used or not.

    Raises:
        FileError: the names that may not, and what can be done about it.
    """
    assert container.pickle is not None
    names = set(container.pickle.names) if record is None else names_below(record)
    refused = allowed.refused(names, in_graph=container.kind is FileKind.GRAPH_MODULE)
    if not refused:
        return
    # a class is called like one; what is none cannot be allowed
    classes = [name for name in refused if name.rpartition(".")[2][:1].isupper()]
    packages = sorted({name.partition(".")[0] for name in classes})
    options = " ".join(f"--allow {name}" for name in (packages if len(classes) > _MOST_CLASSES else classes))
    is_importable = not any(name.startswith("__main__.") for name in classes)  # a script's or notebook's own
    fix = f"give {options} if you wrote that, or " if is_importable and len(options) in range(1, 400) else ""
    fix += "save model.state_dict() and give it with --arch; --trust runs whatever the file says"
    raise FileError(
        f"is a {container.title} that needs {listed(refused)}", where=str(container.path), fix=fix
    )


def listed(names: list[str]) -> str:
    """The names, as far as a person reads them."""
    return ", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else "")


def make(container: Container, allowed: Allowed, record: Any = None) -> Any:
    """What the file's pickle, or a part of it, describes; none of its code is run.

    Raises:
        FileError: it needs a name that is not allowed, is damaged, or is made to do something else.
    """
    assert container.pickle is not None
    require_allowed(container, allowed, record)
    try:
        graphs = make_graph_module if container.kind is FileKind.GRAPH_MODULE else None
        objects = Objects(allowed, _storages(container), graphs)
        made = objects.make(container.pickle.root if record is None else record)
        if isinstance(made, nn.Module):
            require_few(made)
        return made
    except Refused as error:
        raise FileError(
            f"is a {container.title}, but is damaged or not what torch.save writes ({error})",
            where=str(container.path),
            fix="save it again; --trust loads it as it is and runs whatever it says",
        ) from error
    except FileError:
        raise
    except Exception as error:  # a class's own __setstate__ on a state that it does not expect
        raise FileError(
            f"is a {container.title}, but cannot be put together ({brief(error)})",
            where=str(container.path),
            fix="save it again with the versions that are installed here, or save model.state_dict()",
        ) from error


def make_module(container: Container, allowed: Allowed, record: Any = None) -> nn.Module:
    """The module that the file holds.

    Raises:
        FileError: it cannot be made, or is no module.
    """
    made = make(container, allowed, record)
    if not isinstance(made, nn.Module):
        what = f"holds an object of class {type(made).__name__}, not an nn.Module"
        raise FileError(
            what, where=str(container.path), fix="save the model itself with torch.save(model, path)"
        )
    return made


def _storages(container: Container) -> Storages:
    if container.archive is not None:
        return ArchiveStorages(container.archive)
    assert container.legacy is not None
    assert container.pickle is not None
    legacy = container.legacy
    return LegacyStorages(container.path, legacy.keys, legacy.data_offset, container.pickle.references)


def names_below(record: Any) -> set[Global]:
    """Every name among a record and what it is made of."""
    return {name for name, _ in uses(record)}


def uses(record: Any) -> Iterator[tuple[Global, bool]]:
    """Every name in a record and what it is made of, and whether it is a class of which one is made there."""
    seen: set[int] = set()
    pending = [record]
    while pending:
        part = pending.pop()
        if isinstance(part, Global):
            yield part, False
        if not isinstance(part, Made | PlainDict | tuple | list) or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Made):
            pending += [part.args, *part.states, *part.items]
            if isinstance(part.function, Global):
                yield part.function, part.is_instance and part.args == ()
            else:
                pending.append(part.function)
        elif isinstance(part, PlainDict):
            pending += [value for pair in part.pairs for value in pair]
        else:
            pending += part


def load_trusted(path: Path) -> Any:
    """What ``torch.load`` makes of the file, running whatever it says.

    Raises:
        FileError: that failed.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        with importable_here():
            # mapped, a weight costs memory only once it is used; only the zip format can be mapped
            return torch.load(path, map_location="cpu", weights_only=False, mmap=is_zip)
    except ModuleNotFoundError as error:
        raise FileError(
            f"it needs the Python module {error.name!r}, which cannot be imported",
            where=str(path),
            fix="run fxhead in the folder of that module, or install it",
        ) from error
    except AttributeError as error:
        raise FileError(
            f"a class that it needs is not where it was saved from ({error})",
            where=str(path),
            fix="define the class in an importable module (not in the script that saves) and save again, "
            "or save model.state_dict() and give it with --arch package.module:callable",
        ) from error
    except Exception as error:  # a pickle runs code of its own and can fail with anything
        raise FileError(
            f"is not a file that torch.save wrote, or is damaged ({brief(error)})",
            where=str(path),
            fix="save it again with torch.save(model, path)",
        ) from error
