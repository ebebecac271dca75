"""The shape of the house: who may import whom, who prints, who edits graphs, what is public."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import export
import fxpasses

ROOT = Path(__file__).parents[1]
PACKAGES = {"fxpasses": ROOT / "fxpasses", "export": ROOT / "export", "fxhead": ROOT / "tools" / "fxhead"}
FILES = {
    f"{name}/{path.relative_to(folder).as_posix()}": path
    for name, folder in PACKAGES.items()
    for path in sorted(folder.rglob("*.py"))
}

# Imports go one way, and outwards only to these; the standard library is always allowed.
MAY_IMPORT = {
    "fxpasses": {"fxpasses", "torch"},
    "export": {
        "export",
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
        "export",
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
    "fxhead/study/": {"scipy", "sklearn", "matplotlib"},
    "fxhead/cam/": {"matplotlib"},
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
        "CheckError": "raised by export",
        "ExportError": "raised by export",
        "FileError": "raised by fxhead",
        "InputError": "raised by rewrite and find_sites",
        "InternalError": "a bug, outside FxHeadError",
        "PlanError": "raised by WeightPlan",
        "ProviderError": "raised by export",
        "TraceError": "raised by rewrite and find_sites",
    },
    "export": {
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
    },
}

PRINTS = {"fxhead/render.py"}
EDITS_GRAPHS = {
    "fxpasses/rewrite.py": "the engine",
    "fxpasses/sink.py": "the engine's half for pools that move below their head",
    "fxpasses/window.py": "the engine's half for heads on windows",
    "fxpasses/reorder.py": "the engine's half for values in another order of their axes",
    "fxpasses/points.py": "the engine's half for norms of one position",
    "fxpasses/unfolding.py": "the engine's half for convolutions as products of their patches",
    "fxpasses/emit_columns.py": "its writing half",
    "fxpasses/outputs.py": "the engine's half for what a graph gives out",
    "fxpasses/emit.py": "its writing half: a typed op spelled in the node's dialect",
    "fxpasses/undo.py": "its way back: nodes restored as they were written down",
    "fxpasses/trace.py": "makes the graph, before anything else sees it",
    "export/canonical_head.py": "edits ONNX graphs, not torch.fx ones",
}
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
            yield ast.unparse(node.func)


def assigned_attributes(module: ast.Module) -> Iterator[str]:
    """Names of attributes that are assigned to on anything but ``self``."""
    for node in ast.walk(module):
        is_store = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
        if is_store and ast.unparse(node.value) != "self":
            yield node.attr


def edits(module: ast.Module) -> set[str]:
    """How a file edits graphs."""
    methods = {name.rpartition(".")[2] for name in calls(module)}
    return (methods & _EDITING_CALLS) | ({*assigned_attributes(module)} & _EDITED_ATTRIBUTES)


@pytest.mark.parametrize("name", FILES)
def test_imports_go_one_way(name: str) -> None:
    allowed = MAY_IMPORT[name.partition("/")[0]] | sys.stdlib_module_names
    for folder, further in FOLDER_MAY_IMPORT.items():
        allowed |= further if name.startswith(folder) else set()
    assert {*imports(tree(name))} <= allowed


def test_only_render_prints() -> None:
    talks = {"print", "sys.stdout.write", "sys.stderr.write", "pprint", "pprint.pprint", "click.echo"}
    assert {name for name in FILES if talks & {*calls(tree(name))}} == PRINTS


def test_only_the_engine_edits_graphs() -> None:
    assert {name for name in FILES if edits(tree(name))} == {*EDITS_GRAPHS}


@pytest.mark.parametrize(
    "code",
    ["graph.erase_node(n)", "n.args = ()", "n.args, n.kwargs = (), {}", "with g.inserting_after(n): pass"],
)
def test_an_edit_is_seen(code: str) -> None:
    assert edits(ast.parse(code))


@pytest.mark.parametrize("package", [fxpasses, export], ids=lambda package: package.__name__)
def test_public_names_are_those_that_have_a_reason(package: object) -> None:
    names = package.__all__
    assert sorted(names) == sorted(PUBLIC[package.__name__])
    assert names == sorted(names, key=lambda name: (not name[0].isupper(), name))
    assert all(getattr(package, name).__doc__ for name in names)
