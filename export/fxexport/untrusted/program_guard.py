"""What an exported program may hold, checked before torch reads it.

``torch.export.load`` unpickles what lies in the archive, evaluates the sizes in it as Python (``sympify``),
looks up operators by any dotted name, imports what a description of arguments names, and compiles its
guards. Each of these is checked here against what ``torch.export.save`` writes for a program of tensors.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from fxexport.untrusted.allowed import PARTIAL, Allowed
from fxexport.untrusted.archive import ZIP_MAGIC, Archive, open_archive
from fxexport.untrusted.functions import find_function
from fxexport.untrusted.pickles import unwarned
from fxexport.untrusted.torch_archives import is_compiled, is_program, pickle_of, seen_names
from fxpasses.errors import FileError

_MAX_EXPRESSION = 10_000
_MAX_NODES = 1_000
_MAX_POWER = 16
_MAX_DEPTH = 40
_SYMBOL = re.compile(r"[A-Za-z_]\w{0,40}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9.]{1,40}(e[-+]?[0-9]{1,3})?", re.ASCII)
_FUNCTIONS = frozenset(
    "Symbol Integer Float Rational Add Mul Pow Mod Max Min floor ceiling Equality Unequality Eq Ne "
    "StrictGreaterThan GreaterThan LessThan StrictLessThan And Or Not Abs FloorDiv ModularIndexing Where "
    "PythonMod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatTrueDiv IntTrueDiv "
    "IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat "
    "Identity".split()
)
_POWERS = frozenset({"Pow", "PowByNatural", "LShift"})
_PLAIN_NODES = (
    ast.Expression, ast.Load, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.BinOp, ast.UnaryOp,
    ast.Compare, ast.BoolOp, ast.keyword,
)  # fmt: skip
_TREES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None})
_HIGHER_ORDER = frozenset(
    f"torch.ops.higher_order.{name}"
    for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond", "wrap")
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+", re.ASCII)
_PICKLED = re.compile(r"data/sample_inputs/.+|data/(weights|constants)/[^/]+\.pt|serialized_[a-z_]+\.pt")
_OLD_PICKLED = ("serialized_state_dict.json", "serialized_constants.json")


class GuardError(ValueError):
    """The program has something that no exported program of tensors needs."""


def require_safe(archive: Archive) -> None:
    """Returns where nothing in the archive of a program can run code.

    Raises:
        FileError: something could; the message says what.
    """
    if is_compiled(archive):
        raise FileError(
            "is a program compiled by AOTInductor",
            where=archive.where,
            fix="give the program that it was compiled from",
        )
    if not is_program(archive):
        raise FileError(
            "is not a file that torch.export.save wrote, or is damaged",
            where=archive.where,
            fix="save it again with torch.export.save(program, path)",
        )
    try:
        for name, seen in seen_names(archive):
            if seen.startswith("models/") or seen == "serialized_exported_program.json":
                _require_safe_program(_json(archive, name))
            elif seen.endswith(("_weights_config.json", "_constants_config.json")):
                for pickled in _payloads(_json(archive, name)):
                    folder = name.rpartition("/")[0]
                    _require_tensors(archive, f"{folder}/{pickled}")
            elif _PICKLED.fullmatch(seen) or seen in _OLD_PICKLED:
                _require_tensors(archive, name)
    except GuardError as error:
        raise FileError(
            f"is an exported program that {error}",
            where=archive.where,
            fix="export the model again with torch.export.save; fxhead's --trust, as torch.export.load does, "
            "loads it and runs whatever it says",
        ) from error


def _json(archive: Archive, name: str) -> Any:
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"is not a file that torch.export.save wrote, or is damaged ({name} is no JSON)",
            where=archive.where,
            fix="save it again with torch.export.save(program, path)",
        ) from error


# --- pickles in the archive --------------------------------------------------------------------------


def _payloads(config: Any) -> Iterator[str]:
    """Names of the members that are pickled; every other one is raw numbers."""
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise GuardError("has a list of weights in a form of its own")
    for entry in entries.values():
        name = entry.get("path_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not _PAYLOAD.fullmatch(name):
            raise GuardError(f"holds an object that is no tensor ({str(name)[:80]!r})")
        if entry.get("use_pickle") is not False:
            yield name


def _require_tensors(archive: Archive, name: str) -> None:
    """Returns where a member is what ``torch.save`` writes of tensors and plain data."""
    content = archive.read(name)
    if not content:
        return
    if not content.startswith(ZIP_MAGIC):
        raise GuardError(f"has a pickle in {name}")
    inner = open_archive(content, f"{archive.where} ({name})")
    inner.require_whole()
    if "data.pkl" not in inner or any(part.startswith("code/") for part in inner.names()):
        raise GuardError(f"has something else than tensors in {name}")
    names = set(pickle_of(inner).names)
    refused = [*Allowed().refused(names, in_graph=False), *(str(PARTIAL) for _ in names & {PARTIAL})]
    if refused:
        raise GuardError(f"needs {', '.join(refused[:5])} in {name}")


# --- the program itself ------------------------------------------------------------------------------


def _require_safe_program(program: Any) -> None:
    if not isinstance(program, dict):
        raise GuardError("is no program")
    for guard in program.get("guards_code") or ():
        _require_guard(guard)
    for symbol in program.get("range_constraints") or ():
        _require_expression(symbol)
    pending: list[Any] = [program]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        elif isinstance(part, dict):
            _require_entry(part)
            pending += part.values()


def _require_entry(entry: dict[str, Any]) -> None:
    """Returns where what torch evaluates, looks up or imports is of the kind that it should be."""
    if "expr_str" in entry:
        _require_expression(entry["expr_str"])
    if "target" in entry and "inputs" in entry:
        _require_operator(entry["target"])
    if entry.get("as_operator") is not None:
        _require_operator(entry["as_operator"])
    if entry.get("as_custom_obj") is not None or entry.get("custom_obj_values"):
        raise GuardError("holds an object of a custom class")
    if entry.get("treespec_namedtuple_fields"):
        raise GuardError("takes or returns named tuples")
    for name in ("in_spec", "out_spec"):
        if entry.get(name):
            _require_tree(entry[name])


def _require_operator(target: Any) -> None:
    if not isinstance(target, str) or not (target in _HIGHER_ORDER or find_function(target) is not None):
        raise GuardError(f"calls {str(target)[:80]}, which is no computation that is known here")


def _require_tree(text: Any) -> None:
    """A description of nested arguments: tuples, lists and dicts."""
    try:
        _, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise GuardError("describes its arguments in a way of its own") from error
    pending = [(tree, 0)]
    while pending:
        part, depth = pending.pop()
        if not isinstance(part, dict) or depth > _MAX_DEPTH:
            raise GuardError("describes its arguments in a way of its own")
        kind, context = part.get("type"), part.get("context")
        if kind not in _TREES:
            raise GuardError(f"takes or returns a {str(kind)[:80]}")
        if context is not None and (not isinstance(context, str) or "__enum__" in context):
            raise GuardError("describes its arguments in a way of its own")
        children = part.get("children_spec")
        if not isinstance(children, list):
            raise GuardError("describes its arguments in a way of its own")
        pending += [(child, depth + 1) for child in children]


# --- what torch evaluates -----------------------------------------------------------------------------


def _parsed(text: Any) -> ast.Expression:
    if not isinstance(text, str) or len(text) > _MAX_EXPRESSION:
        raise GuardError(f"has a size that is no expression ({str(text)[:80]!r})")
    try:
        with unwarned():
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GuardError(f"has a size that is no expression ({text[:80]!r})") from error
    if sum(1 for _ in ast.walk(tree)) > _MAX_NODES:
        raise GuardError("has a size that is too long")
    return tree


def _require_expression(text: Any) -> None:
    """Returns where the text is arithmetic on symbols: ``Symbol('s0', integer=True)``, ``Add(…)``."""
    for node in ast.walk(_parsed(text)):
        if not _is_arithmetic(node):
            raise GuardError(f"has a size that is no arithmetic ({text[:80]!r})")


def _is_arithmetic(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), args=args):
            is_power = name in _POWERS and len(args) == 2
            return name in _FUNCTIONS and (not is_power or _is_small(args[1]))
        case ast.BinOp(op=ast.Pow() | ast.LShift(), right=exponent):
            return _is_small(exponent)
        case ast.Name(id=name):
            return bool(_SYMBOL.fullmatch(name)) and "__" not in name
        case ast.Constant(value=str(value)):
            return bool(_SYMBOL.fullmatch(value) or _NUMBER.fullmatch(value)) and "__" not in value
        case ast.Constant(value=value):
            return type(value) in (bool, float) or (type(value) is int and abs(value) < 1 << 64)
    return isinstance(node, _PLAIN_NODES)


def _is_small(exponent: ast.expr) -> bool:
    """Whether a power cannot grow without bounds."""
    if isinstance(exponent, ast.Call) and ast.unparse(exponent.func) == "Integer" and len(exponent.args) == 1:
        exponent = exponent.args[0]
    text = ast.unparse(exponent)
    return bool(re.fullmatch(r"-?\d{1,2}", text)) and abs(int(text)) <= _MAX_POWER


def _require_guard(text: Any) -> None:
    """Returns where the text compares sizes of inputs: ``L['x'].size()[0] >= 2``."""
    for node in ast.walk(_parsed(text)):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="size" | "stride" | "storage_offset"), args=[], keywords=[]
            ):
                is_plain = True
            case ast.Attribute(attr="size" | "stride" | "storage_offset" | "shape") | ast.Subscript():
                is_plain = True
            case ast.Name(id=name):
                is_plain = name == "L" or bool(re.fullmatch(r"[su]\d+", name))
            case ast.BinOp(op=ast.Pow() | ast.LShift()):
                is_plain = False
            case ast.Constant(value=value):
                is_plain = type(value) in (int, float, bool, str)
            case _:
                is_plain = isinstance(node, _PLAIN_NODES) and not isinstance(node, ast.keyword)
        if not is_plain:
            raise GuardError(f"has a guard that is no comparison of sizes ({text[:80]!r})")
