"""The shape of the house: who may import whom, who prints, who edits graphs, what is public."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import fxexport
import fxhead
import fxpasses

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "fxpasses": ROOT / "fxpasses",
    "fxexport": ROOT / "export" / "fxexport",
    "fxhead": ROOT / "tools" / "fxhead",
}
FILES = {
    f"{name}/{path.relative_to(folder).as_posix()}": path
    for name, folder in PACKAGES.items()
    for path in sorted(folder.rglob("*.py"))
}

# Imports go one way, and outwards only to these; the standard library is always allowed.
MAY_IMPORT = {
    "fxpasses": {"fxpasses", "torch", "networkx"},  # networkx comes with torch
    "fxexport": {
        "fxexport",
        "fxpasses",
        "torch",
        "numpy",
        "ml_dtypes",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "onnxruntime",
    },
    "fxhead": {
        "fxhead",
        "fxexport",
        "fxpasses",
        "torch",
        "torchvision",
        "numpy",
        "PIL",
        "safetensors",
        "click",
        "rich",
    },
}
# What only one command needs is imported in its folder alone; the rest works without its extra.
FOLDER_MAY_IMPORT = {
    "fxhead/study/": {"joblib", "scipy", "sklearn", "matplotlib"},
    "fxhead/cam/": {"matplotlib"},
    "fxhead/loading/": {"timm", "transformers"},
    "fxhead/files/": {"yaml"},
    "fxhead/executor": {"distributed"},
    "fxhead/page/": {"jinja2", "markupsafe"},
}

# What is public, and why it has to be.
PUBLIC = {
    "fxpasses": {
        "rewrite": "the main job",
        "find_sites": "the same, without an edit",
        "LinearToConv": "for a torch.fx PassManager",
        "ConvToLinear": "for a torch.fx PassManager",
        "PoolToDense": "for a torch.fx PassManager",
        "HeadToFcn": "for a torch.fx PassManager",
        "ConvToUnfold": "for a torch.fx PassManager",
        "UnfoldToConv": "for a torch.fx PassManager",
        "WeightPlan": "maps state dicts between the forms; read from JSON",
        "WeightMove": "an entry of WeightPlan.moves",
        "WeightOrder": "WeightMove.order",
        "RewriteResult": "what rewrite returns",
        "RewriteReport": "RewriteResult.report",
        "Rewrite": "an entry of RewriteReport.rewrites",
        "Miss": "an entry of RewriteReport.misses",
        "MissCode": "Miss.code, to branch on",
        "Sites": "what find_sites returns",
        "Site": "an entry of Sites.sites",
        "Memory": "RewriteReport.memory and Sites.memory",
        "SiteMemory": "an entry of Memory.sites",
        "TraceInfo": "RewriteReport.trace",
        "Form": "the values of to=",
        "Scope": "the values of scope=",
        "FxHeadError": "to catch all that a user can act on",
        "CheckError": "raised by fxexport",
        "ExportError": "raised by fxexport",
        "FileError": "raised by fxhead",
        "InputError": "raised by rewrite and find_sites",
        "InternalError": "a bug, outside FxHeadError",
        "PlanError": "raised by WeightPlan",
        "ProviderError": "raised by fxexport",
        "TraceError": "raised by rewrite and find_sites",
    },
    "fxexport": {
        "export_onnx": "the main job",
        "certify": "the main job",
        "available_providers": "what certify can be asked for here",
        "Certificate": "what certify returns",
        "Verdict": "Certificate.verdict, to branch on",
        "LayerName": "LayerResult.layer",
        "LayerResult": "an entry of Certificate.layers",
        "Status": "LayerResult.status",
        "Coverage": "LayerResult.covered",
        "Failure": "an entry of LayerResult.failures",
        "OutputStatistics": "an entry of Certificate.statistics",
        "Flip": "an entry of Certificate.flips",
        "TargetResult": "an entry of Certificate.targets",
        "Mode": "TargetResult.mode",
        "Witness": "Certificate.witness",
    },
    # what users import; each name is explained where it is made
    "fxhead": {
        "rewrite": "the main job",
        "find_sites": "the same, without an edit",
        "export_onnx": "the main job",
        "certify": "the main job",
        "available_providers": "what certify can be asked for here",
        "load_model": "the command line's rules for files",
        "save_model": "the command line's rules for files",
        "LinearToConv": "for a torch.fx PassManager",
        "ConvToLinear": "for a torch.fx PassManager",
        "PoolToDense": "for a torch.fx PassManager",
        "HeadToFcn": "for a torch.fx PassManager",
        "ConvToUnfold": "for a torch.fx PassManager",
        "UnfoldToConv": "for a torch.fx PassManager",
        "WeightPlan": "maps state dicts between the forms; read from JSON",
        "RewriteResult": "what rewrite returns",
        "RewriteReport": "RewriteResult.report",
        "Rewrite": "an entry of RewriteReport.rewrites",
        "Miss": "an entry of RewriteReport.misses",
        "MissCode": "Miss.code, to branch on",
        "Sites": "what find_sites returns",
        "Site": "an entry of Sites.sites",
        "Form": "the values of to=",
        "Scope": "the values of scope=",
        "Certificate": "what certify returns",
        "Verdict": "Certificate.verdict, to branch on",
        "FxHeadError": "to catch all that a user can act on",
    },
}

PRINTS = {"fxhead/show/render.py"}
# Rules of names: whoever looks for an edit looks into files of these names.
EDITS_GRAPHS = {
    "fxpasses/*/edit.py": "a form's edit, and the engine's own way back",
    "fxpasses/*/writer.py": "a typed op spelled in the node's dialect",
    "fxpasses/heads/component.py": "the head's edit",
    "fxpasses/pointwise/respell.py": "norms of one position, among the edits of scope all",
    "fxpasses/engine/undo.py": "nodes as they were written down",
    "fxpasses/engine/outputs.py": "what a graph gives out",
    "fxpasses/graph/trace.py": "makes the graph, before anything else sees it",
    "fxexport/onnx_dialect/open.py": "makes the graph of a file, before anything else sees it",
    "fxexport/to_onnx/canonical_head.py": "edits ONNX graphs, not torch.fx ones",
}
# Rooms from the ground up: a file imports from its own room and from rooms before it. A file that stands
# beside the rooms is one of its own.
FLOORS = {
    "fxpasses": (
        "private_names",
        "errors", "wall", "miss_codes", "report", "weights", "plan", "graph", "vocabulary", "engine", "heads",
        "pointwise", "sites", "dense", "fcn", "im2col", "survey", "change", "api", "passes",
    ),
    "fxexport": (
        "private_names",
        "untrusted", "providers",
        "precision", "witness", "results", "onnx_node", "onnx_inference", "language", "terms", "numerics",
        "onnx_graph", "onnx_dialect", "module_graph",
        "to_onnx", "subjects", "proof/pairing", "proof/measured", "proof/wiring",
        "proof", "certificate",
    ),
    "fxhead": (
        "private_names",
        "source", "outcome", "extras", "processes", "executor", "files", "loading", "show", "page", "inputs",
        "check", "rewriting", "cam", "convert", "inspect", "explain", "study", "batch", "schema", "commands",
        "supervisor", "cli", "__main__", "api",
    ),
}  # fmt: skip
# Whoever adds a spelling of an op looks into the vocabulary, and into no more files than these.
READS_SPELLINGS = {
    "fxpasses/vocabulary/*.py": "what a node says, and how an op is spelled",
    "fxpasses/*/writer.py": "an op spelled in the node's dialect",
    "fxpasses/graph/trace.py": "dropouts that are written as functions, which follow the module's mode",
    "fxpasses/engine/fake_values.py": "views whose value is known without running them",
    "fxpasses/engine/undo.py": "functions by the name under which a record keeps them",
    "fxexport/onnx_dialect/*.py": "ONNX operators as a dialect of the graph",
    "fxexport/language/*.py": "ATen operators as terms of the proof",
    "fxexport/to_onnx/*.py": "what the exporter makes of operators that it does not know, or not as wanted",
    "fxexport/subjects/wide.py": "casts, of which a run in float64 has more",
    "fxhead/loading/graph_modules.py": "which functions a file's graph may call",
    "fxhead/cam/overlay.py": "computes with tensors, reads no graph",
    "fxhead/study/training.py": "computes with tensors, reads no graph",
}
# Names that other libraries keep to themselves are imported in files of this name alone: the package's own,
# or that of the room which alone needs something heavy. Each name stands there with its reason.
PRIVATE_NAMES = "private_names.py"
_LIBRARIES = {"torch", "torchvision", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "nn"}
_EDITING_CALLS = {
    "erase_node",
    "replace_input_with",
    "replace_all_uses_with",
    "inserting_after",
    "inserting_before",
    "update_arg",
    "insert_arg",
    "eliminate_dead_code",
}
_EDITED_ATTRIBUTES = {"args", "kwargs", "target"}


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imports(module: ast.Module) -> Iterator[str]:
    """Top-level packages that are imported anywhere in a file, inside functions too."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative imports are banned"
            yield node.module.partition(".")[0]


def calls(module: ast.Module) -> Iterator[str]:
    """Names of called functions and methods, as far as they are written out: ``print``, ``sys.exit``."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            yield dotted(node.func)


def assigned_attributes(module: ast.Module) -> Iterator[str]:
    """Names of attributes that are assigned to on anything but ``self``."""
    for node in ast.walk(module):
        is_store = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
        if is_store and dotted(node.value) != "self":
            yield node.attr


def edits(module: ast.Module) -> set[str]:
    """How a file edits graphs."""
    methods = {name.rpartition(".")[2] for name in calls(module)}
    return (methods & _EDITING_CALLS) | ({*assigned_attributes(module)} & _EDITED_ATTRIBUTES)


def room(name: str) -> str:
    """The room that a file is in: its folder, or itself where it stands beside the folders."""
    package, _, rest = name.removesuffix(".py").removesuffix("/__init__").partition("/")
    folder = rest.rpartition("/")[0]
    return rest if rest in FLOORS[package] else folder


def imported_files(module: ast.Module) -> Iterator[str]:
    """Files of ours that are imported anywhere in a file."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
            path = node.module.replace(".", "/")
            for name in (f"{path}/{alias.name}.py" for alias in node.names):
                yield (
                    name
                    if name in FILES
                    else f"{path}.py"
                    if f"{path}.py" in FILES
                    else f"{path}/__init__.py"
                )


@pytest.mark.parametrize("package", FLOORS)
def test_every_file_is_in_a_room_and_every_room_has_files(package: str) -> None:
    files = [name for name in FILES if name.startswith(f"{package}/") and name != f"{package}/__init__.py"]
    assert {room(name) for name in files} == {*FLOORS[package]}


@pytest.mark.parametrize("name", [name for name in FILES if name.count("/") > 0])
def test_imports_between_rooms_go_down(name: str) -> None:
    package = name.partition("/")[0]
    if name == f"{package}/__init__.py":
        return  # the package's face hands on what its rooms make
    floors = FLOORS[package]
    own = floors.index(room(name))
    within = [file for file in imported_files(tree(name)) if file.startswith(f"{package}/")]
    up = [file for file in within if file != f"{package}/__init__.py" and floors.index(room(file)) > own]
    assert up == []


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("/__init__.py")])
def test_every_folder_says_what_it_is_for(name: str) -> None:
    text = ast.get_docstring(tree(name)) or ""
    assert len(text.splitlines()) >= 3
    assert name.count("/") == 1 or ("May import: " in text and "Start in " in text)


def test_the_tree_in_the_readme_has_every_room() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("```tree\n")[2].partition("```")[0]
    named, package = set(), ""
    for line in tree.splitlines():
        folders = [word for word in re.split(r" {2,}", line.strip())[0].split() if word.endswith("/")]
        if not line.startswith(" "):
            (package,), folders = folders, [""]
        named |= {f"{package}{folder}".rstrip("/") for folder in folders}
    rooms = {
        path.parent.relative_to(ROOT).as_posix() for path in FILES.values() if path.name == "__init__.py"
    }
    assert {room for room in rooms if "fxexport/proof/" not in room} | {
        "tools/bench",
        "tools/fuzz",
        "tests",
    } == named


@pytest.mark.parametrize("name", FILES)
def test_imports_go_one_way(name: str) -> None:
    allowed = MAY_IMPORT[name.partition("/")[0]] | sys.stdlib_module_names
    for folder, further in FOLDER_MAY_IMPORT.items():
        allowed |= further if name.startswith(folder) else set()
    assert {*imports(tree(name))} <= allowed


def test_only_render_prints() -> None:
    talks = {"print", "sys.stdout.write", "sys.stderr.write", "pprint", "pprint.pprint", "click.echo"}
    assert {name for name in FILES if talks & {*calls(tree(name))}} == PRINTS


def test_only_files_of_these_names_edit_graphs() -> None:
    found = {name for name in FILES if edits(tree(name))}
    strangers = {name for name in found if not any(fnmatch(name, rule) for rule in EDITS_GRAPHS)}
    idle = {rule for rule in EDITS_GRAPHS if not any(fnmatch(name, rule) for name in found)}
    assert (strangers, idle) == (set(), set())


@pytest.mark.parametrize(
    "code",
    ["graph.erase_node(n)", "n.args = ()", "n.args, n.kwargs = (), {}", "with g.inserting_after(n): pass"],
)
def test_an_edit_is_seen(code: str) -> None:
    assert edits(ast.parse(code))


def dotted(node: ast.expr) -> str:
    """``torch.ops.aten`` as text; what is no name begins with a dot."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def spellings(module: ast.Module) -> Iterator[str]:
    """Torch's operators and functions where a file names them, and names of methods that it compares with."""
    aliases = {"torch.ops", "torch.nn.functional"}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname or alias.name for alias in node.names if alias.name in aliases}
        elif isinstance(node, ast.Assign) and ast.unparse(node.value) == "torch.ops.aten":
            aliases |= {ast.unparse(target) for target in node.targets}
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and dotted(node.value) in aliases:
            yield dotted(node)
        elif isinstance(node, ast.Compare) and dotted(node.left).endswith(".target"):
            texts = [part for side in node.comparators for part in ast.walk(side)]
            yield from (str(text.value) for text in texts if isinstance(text, ast.Constant))


def private_names(module: ast.Module) -> Iterator[str]:
    """What a file uses that other libraries keep to themselves; names of operators are public."""
    for node in ast.walk(module):
        found = ()
        if isinstance(node, ast.ImportFrom) and node.module:
            found = tuple(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found = tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and not dotted(node).startswith("torch.ops."):
            found = (dotted(node),)
        for name in found:
            library, *parts = name.split(".")
            is_private = any(part.startswith("_") and not part.startswith("__") for part in parts)
            if library in _LIBRARIES and is_private:
                yield name


def test_only_files_of_these_names_read_spellings() -> None:
    found = {name for name in FILES if any(spellings(tree(name)))}
    strangers = {name for name in found if not any(fnmatch(name, rule) for rule in READS_SPELLINGS)}
    idle = {rule for rule in READS_SPELLINGS if not any(fnmatch(name, rule) for name in found)}
    assert (strangers, idle) == (set(), set())


@pytest.mark.parametrize(
    "code",
    [
        "import torch.nn.functional as F\nF.relu",
        "torch.ops.aten.view.default",
        "_aten = torch.ops.aten\n_aten.view",
        "node.target == 'view'",
        "node.target in ('view', 'reshape')",
    ],
)
def test_a_spelling_is_seen(code: str) -> None:
    assert [*spellings(ast.parse(code))]


@pytest.mark.parametrize("name", FILES)
def test_private_names_have_a_file_of_their_own_with_reasons(name: str) -> None:
    is_home = Path(name).name == PRIVATE_NAMES
    assert any(private_names(tree(name))) == is_home
    if is_home:
        lines = FILES[name].read_text(encoding="utf-8").splitlines()
        listed = [line for line in lines if line.startswith('    "')]
        assert listed
        assert all(",  # " in line for line in listed)


@pytest.mark.parametrize(
    "code",
    [
        "from torch._ops import OpOverload",
        "from torch.utils import _pytree",
        "torch._C._nn",
        "import onnx._x",
    ],
)
def test_a_private_name_is_seen(code: str) -> None:
    assert [*private_names(ast.parse(code))]


@pytest.mark.parametrize("package", [fxpasses, fxexport, fxhead], ids=lambda package: package.__name__)
def test_public_names_are_those_that_have_a_reason(package: object) -> None:
    names = package.__all__
    assert sorted(names) == sorted(PUBLIC[package.__name__])
    assert names == sorted(names, key=lambda name: (not name[0].isupper(), name))
    assert all(getattr(package, name).__doc__ for name in names)
