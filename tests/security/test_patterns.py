"""Every regular expression of the product takes linear time, whatever it is given.

The expressions are found in the source: calls of `re`, patterns of msgspec's types and of JSON schemas. A
new one is included by itself. Each is run, by the methods that the product uses, on texts of up to 100 KB
that are made from its own parts; time may not grow with the square of the length.
"""

import ast
import functools
import importlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from re import _constants as opcodes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "rejoin_protocol": "protocol",
    "rejoin_adapters": "adapters",
    "rejoin_gateway": "gateway",
    "rejoin_runner": "runner",
    "rejoin_client": "clients/python",
    "rejoin": ".",
}
FUNCTIONS = {"compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"}
SIZE_MAX = 102_400
SIZES = [SIZE_MAX >> shift for shift in range(7, -1, -1)]
SHORT_SIZES = range(8, 25, 2)
"""Exponential time shows on short texts, and would not end on long ones."""
MEASURABLE_S = 0.002
ENOUGH_S = 0.25
GROWTH_MAX = 2.8
"""Twice the length takes twice the time if time is linear, four times if it is quadratic."""
METHODS: dict[str, Callable[[Any, Any], object]] = {
    "match": lambda one, text: one.match(text),
    "fullmatch": lambda one, text: one.fullmatch(text),
    "search": lambda one, text: one.search(text),
    "all": lambda one, text: sum(1 for _ in one.finditer(text)),
}


SCRIPTS = ("gateway/rejoin_gateway/ui/static", "clients/js")
LITERAL = re.compile(
    r"(?:[=(,:;!&|?{}\[\n>]|\breturn)\s*/((?![*/])(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+)/([dgimsuvy]*)"
    r"(?=[\s.,;)\]}])"
)
"""A literal of JavaScript. Expressions that a script puts together are run in `test_small_doors`."""


class Expression(NamedTuple):
    """A regular expression, where it is, and the methods by which it is used."""

    place: str
    pattern: re.Pattern[Any]
    methods: frozenset[str]


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package, folder in PACKAGES.items():
        top = ROOT / folder / package
        for file in sorted(top.rglob("*.py")):
            parts = [package, *file.relative_to(top).with_suffix("").parts]
            name = ".".join(part for part in parts if part != "__init__")
            if not name.endswith("__main__"):
                yield name, ast.parse(file.read_text())


def evaluated(node: ast.expr, module: str) -> Any:
    """The value of an expression in its module. Raises `NameError` for what only a function knows."""
    code = compile(ast.Expression(node), module, "eval")
    return eval(code, dict(vars(importlib.import_module(module))))  # noqa: S307 - our own source


def patterns_of(node: ast.expr, module: str) -> list[Any]:
    """The pattern that an expression is; for a field of a function's argument, that field of all values of
    the module. Raises `NameError` for any other.
    """
    try:
        found = evaluated(node, module)
    except NameError:
        if not isinstance(node, ast.Attribute):
            raise
        values = list(vars(importlib.import_module(module)).values())
        values += [one for value in values if isinstance(value, Mapping) for one in value.values()]
        fields = {getattr(one, node.attr, None) for one in values if isinstance(one, msgspec.Struct)}
        patterns = [one for one in fields if isinstance(one, str)]
        if not patterns:
            raise
        return patterns
    return [] if callable(found) else [found]  # a function checks the keyword of a schema


@functools.cache
def expressions() -> list[Expression]:
    """All of the product: it imports every module, so the tests ask for it, not their collection."""
    trees = dict(sources())
    used: dict[str, set[str]] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in FUNCTIONS | {"pattern"}:
                owner = node.value
                name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                used.setdefault(name, set()).add(node.attr)
    found = []
    for module, tree in trees.items():
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            for given, flags, methods in patterns_in(node, parents, used):
                place = f"{module}:{given.lineno}"
                bits = evaluated(flags, module) if flags is not None else 0
                found += [
                    Expression(place, re.compile(pattern, bits), frozenset(methods))
                    for pattern in patterns_of(given, module)
                ]
    return found


def of_scripts() -> list[Expression]:
    """Those of our pages and of the client for JavaScript, which backtracks as Python does."""
    found = []
    for folder in SCRIPTS:
        for file in sorted((ROOT / folder).glob("*.js")):
            text = file.read_text()
            for literal in LITERAL.finditer(text):
                place = f"{file.name}:{text.count(chr(10), 0, literal.start(1)) + 1}"
                flags = (re.IGNORECASE if "i" in literal[2] else 0) | (re.DOTALL if "s" in literal[2] else 0)
                methods = frozenset({"all" if "g" in literal[2] else "search"})
                found.append(Expression(place, re.compile(literal[1], flags), methods))
    return found


def patterns_in(
    node: ast.AST, parents: dict[ast.AST, ast.AST], used: dict[str, set[str]]
) -> Iterator[tuple[ast.expr, ast.expr | None, set[str]]]:
    """The patterns in one node: the expression, its flags, and how it is used."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=attr), args=[given, *rest]) if (
            attr in FUNCTIONS
        ):
            flags = next((one.value for one in node.keywords if one.arg == "flags"), None)
            if attr != "compile":
                yield given, flags, {attr if attr in METHODS else "all"}
                return
            parent = parents[node]
            names = [one.id for one in getattr(parent, "targets", []) if isinstance(one, ast.Name)]
            methods = {one for name in names for one in used.get(name, set())} - {"pattern", "compile"}
            yield (
                given,
                flags or next(iter(rest), None),
                {one if one in METHODS else "all" for one in methods} or {"all"},
            )
        case ast.Call(keywords=keywords):
            for one in keywords:
                if one.arg == "pattern":
                    yield one.value, None, {"search"}
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "pattern":
                    yield value, None, {"search"}
        case ast.Assign(targets=[ast.Subscript(slice=ast.Constant(value="pattern"))], value=value):
            yield value, None, {"search"}


def parts_of(tree: Any) -> Iterator[str]:
    """Texts that the parts of an expression match: one for each part, and the sequences of them."""
    whole, word = "", ""
    for opcode, argument in tree:
        pieces = list(parts_of_one(opcode, argument))
        yield from pieces
        whole += pieces[-1] if pieces else ""
        if opcode is opcodes.LITERAL:
            word += chr(argument)
        elif word:
            yield from (word, f"-{word}")
            word = ""
    yield whole


def parts_of_one(opcode: Any, argument: Any) -> Iterator[str]:
    if opcode in (opcodes.LITERAL, opcodes.NOT_LITERAL):
        yield chr(argument) if opcode is opcodes.LITERAL else chr(argument + 1)
    elif opcode is opcodes.ANY:
        yield "a"
    elif opcode is opcodes.IN:
        yield from (char for char in set_members(argument))
    elif opcode is opcodes.BRANCH:
        for branch in argument[1]:
            yield from parts_of(branch)
    elif opcode is opcodes.SUBPATTERN:
        yield from parts_of(argument[3])
    elif opcode in (opcodes.MAX_REPEAT, opcodes.MIN_REPEAT, opcodes.POSSESSIVE_REPEAT):
        least, _, inside = argument
        pieces = list(parts_of(inside))
        yield from pieces
        yield pieces[-1] * min(max(least, 1), 64)
    elif opcode in (opcodes.ASSERT, opcodes.ASSERT_NOT):
        yield from parts_of(argument[1])
    elif opcode is opcodes.ATOMIC_GROUP:
        yield from parts_of(argument)


CLASSES = {"CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "a", "CATEGORY_NOT_SPACE": "a"}


def set_members(members: Any) -> list[str]:
    """A character or two that a set matches."""
    if members[0][0] is opcodes.NEGATE:
        refused = re.compile("[" + "".join(map(class_of, members[1:])) + "]")
        return [next(char for char in "a-1.x \n\0é_" if not refused.match(char))]
    chars = []
    for opcode, argument in members:
        if opcode is opcodes.LITERAL:
            chars.append(chr(argument))
        elif opcode is opcodes.RANGE:
            chars.append(chr(argument[0]))
        elif opcode is opcodes.CATEGORY:
            chars.append(CLASSES.get(str(argument), "-"))
    return [chars[0], chars[-1]]


def class_of(member: Any) -> str:
    opcode, argument = member
    if opcode is opcodes.LITERAL:
        return re.escape(chr(argument))
    if opcode is opcodes.RANGE:
        return f"{re.escape(chr(argument[0]))}-{re.escape(chr(argument[1]))}"
    return {"CATEGORY_SPACE": r"\s", "CATEGORY_DIGIT": r"\d", "CATEGORY_WORD": r"\w"}.get(
        str(argument), r"\W"
    )


def units(pattern: re.Pattern[Any]) -> list[str]:
    """What is repeated: the parts of the expression, and pairs of the short ones."""
    source = pattern.pattern
    text = source if isinstance(source, str) else source.decode("latin-1")
    flags = pattern.flags & ~re.UNICODE if isinstance(source, bytes) else pattern.flags
    parts = [part for part in dict.fromkeys(parts_of(parser.parse(text, flags))) if part]
    short = [part for part in parts if len(part) == 1][:5]
    return list(dict.fromkeys([*parts, *("a", " ", "\n"), *(one + two for one in short for two in short)]))


def cost_s(
    pattern: re.Pattern[Any],
    run: Callable[[Any, Any], object],
    unit: str,
    end: str,
    size: int,
    repeat: int = 1,
) -> float:
    """The least time of `repeat` runs on a text of this size."""
    text: Any = unit * (size // len(unit)) + end
    if isinstance(pattern.pattern, bytes):
        text = text.encode("latin-1", "replace")
    best_s = float("inf")
    for _ in range(repeat):
        started_s = time.thread_time()
        run(pattern, text)
        best_s = min(best_s, time.thread_time() - started_s)
    return best_s


def first_superlinear(pattern: re.Pattern[Any], method: str) -> str | None:
    """A text whose time grows faster than its length; None if there is none."""
    for unit in units(pattern):
        for end in ("\0", ""):
            cost_of = partial(cost_s, pattern, METHODS[method], unit, end)
            if any(cost_of(size) > MEASURABLE_S and cost_of(size, 3) > MEASURABLE_S for size in SHORT_SIZES):
                return f"exponential: {unit!r} {end!r}"
            costs_s: list[float] = []
            for at, size in enumerate(SIZES):
                costs_s.append(cost_of(size))
                if costs_s[-1] > MEASURABLE_S and at > 1 and grows(costs_s[-3:]):
                    again_s = [cost_of(one, 3) for one in SIZES[at - 2 : at + 1]]
                    if grows(again_s):
                        return f"{unit!r} {end!r}: {again_s} s"
                if costs_s[-1] > ENOUGH_S:
                    break
    return None


def grows(costs_s: list[float]) -> bool:
    one, two, three = costs_s
    return two > GROWTH_MAX * one and three > GROWTH_MAX * two


def test_every_expression_is_found() -> None:
    """The list is that of the source: each line with a call of `re` or with a pattern is in it."""
    places = {one.place for one in expressions()}
    for known in (
        "redaction",
        "partial_json",
        "file_formats",
        "openapi",
        "routes",
        "agent_chat",
        "nats_client",
    ):
        assert any(known in place for place in places), known
    assert len(expressions()) > 50
    assert {one.place for one in expressions() if not one.methods} == set()


@pytest.mark.parametrize(
    "source", [r"\beyJ[\w-]+\.[\w-]+\.[\w-]*", r"(a|a)*b", r"\s+$", r"(a+)+b", r".*,.*;"], ids=str
)
def test_a_quadratic_expression_is_noticed(source: str) -> None:
    """The one that an attacker used against the logs, and textbook ones."""
    assert first_superlinear(re.compile(source), "all") is not None


def test_every_expression_of_the_scripts_is_found() -> None:
    """As many as their text has tests and replacements by literals, at least."""
    found = {one.pattern.pattern for one in of_scripts()}
    assert len(found) > 15
    assert r"^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$" in found
    assert r"^([^:]*)(?:: ?(.*))?$" in found


@pytest.mark.slow
def test_each_expression_of_the_scripts_takes_linear_time() -> None:
    for one in of_scripts():
        for method in one.methods:
            assert first_superlinear(one.pattern, method) is None, one.place


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_each_expression_takes_linear_time(package: str) -> None:
    for one in expressions():
        if one.place.partition(":")[0].partition(".")[0] == package:
            for method in sorted(one.methods):
                assert first_superlinear(one.pattern, method) is None, (one.place, method)
