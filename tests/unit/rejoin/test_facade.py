"""`import rejoin` offers the public names: the same ones to a type checker and at run time."""

import ast
from importlib import import_module, metadata
from pathlib import Path

import pytest

import rejoin


def imports_for_type_checkers() -> dict[str, str]:
    """The module of each name that the block `if TYPE_CHECKING` imports."""
    tree = ast.parse(Path(rejoin.__file__).read_text(encoding="utf-8"))
    [block] = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {
        alias.name: node.module or ""
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_a_type_checker_and_the_interpreter_see_the_same_names() -> None:
    modules = imports_for_type_checkers()
    assert {*modules, "__version__"} == set(rejoin.__all__) == set(dir(rejoin))
    for name, module in modules.items():
        assert getattr(rejoin, name) is getattr(import_module(module), name)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rejoin' has no attribute 'Nothing'"):
        _ = rejoin.Nothing  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_distribution() -> None:
    assert rejoin.__version__ == metadata.version("rejoin")
