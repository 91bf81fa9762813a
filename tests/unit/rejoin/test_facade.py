"""The facade: each public name exists, and an application needs no other package."""

import ast
import importlib
import pydoc
from pathlib import Path

import pytest

import rejoin
import rejoin.chunks
from rejoin_protocol.events import chunks

ROOT = Path(__file__).parents[3]
DECLARED = (
    "Agent",
    "CallApproval",
    "ContextWindow",
    "Isolation",
    "McpServer",
    "ModelRequest",
    "ModelSettings",
    "RunContext",
    "RunInput",
    "StatusUpdates",
    "ToolContext",
)


@pytest.mark.parametrize("name", rejoin.__all__)
def test_each_public_name_is_defined_in_its_module(name: str) -> None:
    value = getattr(rejoin, name)
    if name != "__version__":
        assert value is getattr(importlib.import_module(rejoin._MODULE_OF[name]), name)


def test_no_other_name_is_public() -> None:
    assert set(rejoin._MODULE_OF) | {"__version__"} == set(rejoin.__all__)
    assert dir(rejoin) == sorted(rejoin.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(rejoin, "nothing")  # noqa: B009 - mypy refuses the attribute itself


@pytest.mark.parametrize("name", DECLARED)
def test_help_says_what_every_field_of_a_declaration_and_of_a_context_is(name: str) -> None:
    kind = getattr(rejoin, name)
    text = pydoc.plain(pydoc.render_doc(kind))
    # The runner sets `output` of a context for its methods.
    fields = [field for field in kind.__struct_fields__ if field != "output" or name == "Agent"]
    assert fields
    assert [field for field in fields if f" {field}: " not in text] == []


def test_all_classes_of_events_are_public_in_one_module() -> None:
    public = {name for name, value in vars(chunks).items() if isinstance(value, type) and name[0] != "_"}
    own = {name for name in public if getattr(chunks, name).__module__ == chunks.__name__}
    assert set(rejoin.chunks.__all__) == {*own, "Chunk"}
    assert all(getattr(rejoin.chunks, name) is getattr(chunks, name) for name in rejoin.chunks.__all__)


def test_the_fastapi_example_imports_the_facade_alone() -> None:
    source = (ROOT / "examples" / "fastapi" / "app.py").read_text(encoding="utf-8")
    modules = {
        (node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
    }
    assert {module for module in modules if module.startswith("rejoin")} == {"rejoin"}
