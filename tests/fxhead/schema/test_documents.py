"""``fxhead schema``: closed, in the words of the records, and of documents that were written.

That every other document that tests get to see is valid too, the fixture ``run`` holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fxexport.results import Certificate
from fxhead.check.certificates import WRITTEN
from fxhead.check.changes import SINCE
from fxhead.files.strict_json import Field
from fxhead.files.typed_json import read_as
from fxpasses.errors import FileError

jsonschema = pytest.importorskip("jsonschema", reason="the extra 'test' has it")
Run = Callable[..., Any]
NAMES = ("result", "plan", "certificate", "statement", "batch-row")


def schema(run: Run, name: str) -> Any:
    done = run("schema", name)
    assert done.code == 0
    return json.loads(done.out)


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema of objects in a schema."""
    if isinstance(node, dict):
        if "properties" in node:
            yield node
        for inner in node.values():
            yield from objects(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from objects(inner)


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one_and_leaves_nothing_open(run: Run, name: str) -> None:
    found = schema(run, name)
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$id"] == f"urn:fxhead:schema:{name}"
    assert [*objects(found)]
    assert all(node["additionalProperties"] is False and node["required"] for node in objects(found))


def test_fields_are_described_in_the_words_of_the_records(run: Run) -> None:
    statistics = schema(run, "certificate")["$defs"]["OutputStatistics"]["properties"]
    assert statistics["flips"] == {
        "description": "number of them whose arg max differs.", "type": "integer"
    }  # fmt: skip
    # a description of several lines is one
    assert "lie within their bounds and whose gap" in statistics["top1_certified"]["description"]


def test_an_unknown_name_suggests_the_nearest(run: Run) -> None:
    done = run("schema", "certificat")
    assert (done.code, done.out) == (2, "")
    assert "certificate" in done.err


@pytest.fixture
def written(run: Run, net: Path) -> dict[str, Any]:
    """The documents of one rewrite."""
    done = run("rewrite", "model.pt", "--to", "conv", "--input-shape", "1x3x16x16", "--attest", "--json")
    assert done.code == 0, done.err
    names = {"plan": "plan", "certificate": "certificate", "intoto": "statement"}
    files = {kind: json.loads(Path(f"model.conv.{name}.json").read_text()) for name, kind in names.items()}
    return {"result": json.loads(done.out), **files}


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every value in a document."""
    if path:
        yield path
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield from leaves(node[key], (*path, key))


def test_documents_are_valid_and_whatever_is_missing_or_of_another_kind_is_seen(
    run: Run, written: dict[str, Any]
) -> None:
    free = ("environment", "options", "layers")  # their keys are open
    for name, document in written.items():
        validator = jsonschema.Draft202012Validator(schema(run, name))
        validator.validate(document)
        del document.get("checks", [])[1:]
        # one of each kind: the entries of a list are all alike
        kinds = {tuple(key for key in path if isinstance(key, str)): path for path in leaves(document)}
        for path in kinds.values():
            if isinstance(path[-1], int) or {*free} & {*path}:
                continue
            parent = document
            for key in path[:-1]:
                parent = parent[key]
            kept = parent.pop(path[-1])
            assert path[-1] in ("now", "images", *SINCE) or not validator.is_valid(document), path
            parent[path[-1]] = {"no": "such"}
            assert path[-1] == "images" or not validator.is_valid(document), path
            parent[path[-1]] = kept
        validator.validate(document)


def test_what_a_schema_describes_is_read_again_as_the_record(written: dict[str, Any]) -> None:
    for check in written["certificate"]["checks"]:
        read = read_as(Certificate, Field(check, "", Path("c.json"), "mend it"), WRITTEN)
        assert json.loads(json.dumps(read.to_dict())) == check
        for name in SINCE:  # certificates that were written before it was told
            check.pop(name, check["targets"][0].pop(name, None))
        (target,) = read_as(Certificate, Field(check, "", Path("c.json"), "mend it"), WRITTEN).targets
        assert target.measured_precision is None
    del check["rounding"]["covered"]["nodes"]
    with pytest.raises(FileError, match=r"c\.json: rounding\.covered\.nodes is missing; mend it"):
        read_as(Certificate, Field(check, "", Path("c.json"), "mend it"), WRITTEN)
