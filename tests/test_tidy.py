"""The house rules, as tests: what the style asks for and a machine can see."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "adapters", "gateway", "runner", "rejoin")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
CLIENT = sorted((ROOT / "clients" / "python" / "rejoin_client").rglob("*.py"))
OTHERS = CLIENT + sorted(path for folder in ("examples", "bench") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
ALL = SOURCES + TESTS + OTHERS
PROTOCOL = ROOT / "protocol" / "rejoin_protocol"
PURE = sorted(path for path in PROTOCOL.rglob("*.py") if path.name != "__init__.py")
IMPURE = {"asyncio", "socket", "time", "random", "secrets", "os", "pathlib", "aiohttp"}
WIRING = {"rejoin/cli/main.py", "rejoin/dev/preload.py", "runner/rejoin_runner/__main__.py"}
"""The entry points: they alone may look at the environment."""
LAZY = {
    "gateway/rejoin_gateway/core/attachments.py",
    "gateway/rejoin_gateway/auth/authenticator.py",
    "rejoin/cli/main.py",
    "gateway/rejoin_gateway/core/agent_context.py",
    "rejoin/dev/launcher.py",
    "runner/rejoin_runner/models/provider.py",
    "runner/rejoin_runner/mcp/remote_tool.py",
    "runner/rejoin_runner/tools/docstring.py",
}
"""Where importing late is the purpose: many processes never need it, and all of them would wait for it. A
provider's library costs seconds.
"""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(parsed(path)))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def roots(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


def test_a_file_fits_in_a_head() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL}
    assert {file: count for file, count in lines.items() if count > FILE_LINES_MAX} == {}


def test_a_function_fits_on_a_screen() -> None:
    found = [
        (name(path), one.name, (one.end_lineno or 0) - one.lineno) for path in ALL for one in functions(path)
    ]
    assert found
    assert [one for one in found if one[2] >= FUNCTION_LINES_MAX] == []


def test_imports_point_one_way() -> None:
    """`protocol` ← `adapters` ← `gateway` | `runner` ← `rejoin`, and drivers stay in the adapters."""
    allowed = {
        "protocol": {"rejoin_protocol"},
        "adapters": {"rejoin_protocol", "rejoin_adapters"},
        "gateway": {"rejoin_protocol", "rejoin_adapters", "rejoin_gateway"},
        "runner": {"rejoin_protocol", "rejoin_adapters", "rejoin_runner"},
        "rejoin": {"rejoin_protocol", "rejoin_adapters", "rejoin_gateway", "rejoin_runner", "rejoin"},
    }
    ours = {*allowed["rejoin"], "tests", "bench", "examples"}
    for path in SOURCES:
        used, package = roots(path), name(path).split("/")[0]
        assert used & ours <= allowed[package], name(path)
        if package != "adapters":
            assert not used & {"nats", "asyncpg"}, name(path)
        if package != "gateway":
            assert "aiohttp.web" not in imports(path), name(path)
        if package == "protocol":
            assert not used & IMPURE, name(path)


def test_the_client_needs_nothing_of_ours() -> None:
    assert CLIENT
    assert [
        name(path)
        for path in CLIENT
        if roots(path) & {"rejoin", *(f"rejoin_{package}" for package in PACKAGES), "tests", "examples"}
    ] == []


def test_only_entry_points_read_the_environment() -> None:
    read = {
        name(path) for path in SOURCES if re.search(r"os\.environ|getenv", path.read_text(encoding="utf-8"))
    }
    assert read == WIRING


def test_nothing_is_imported_inside_a_function() -> None:
    found = {
        name(path)
        for path in SOURCES
        for function in functions(path)
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(function))
    }
    assert found == LAZY


def test_no_module_keeps_mutable_state() -> None:
    """A name in capitals may hold a table that nobody changes; everything else is immutable or a function."""
    mutable = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp
    found = []
    for path in SOURCES:
        for node in parsed(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets += [node.target] if isinstance(node, ast.AnnAssign) else []
            if isinstance(getattr(node, "value", None), mutable):
                found += [(name(path), ast.unparse(target).lstrip("_")) for target in targets]
    assert found
    assert [(file, word) for file, word in found if word != word.upper() and word != "all__"] == []


def test_tasks_live_in_groups() -> None:
    found = [
        (name(path), ast.unparse(node))
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "gather", "ensure_future"}
    ]
    assert found
    assert [one for one in found if one[1] not in {"group.create_task", "self._group.create_task"}] == []


UNIT = ROOT / "tests" / "unit" / "protocol"


def test_a_pure_file_has_a_test_of_its_own() -> None:
    assert PURE
    assert [
        name(path)
        for path in PURE
        if not (UNIT / path.parent.relative_to(PROTOCOL) / f"test_{path.name}").exists()
    ] == []


def test_a_module_says_what_it_owns() -> None:
    silent = {name(path) for path in ALL if not ast.get_docstring(parsed(path))}
    assert [file for file in silent if not file.endswith("__main__.py")] == []


def test_the_words_are_the_fields() -> None:
    words = {"manager", "helper", "handler", "util", "utils", "common"}
    assert [name(path) for path in SOURCES if set(path.stem.split("_")) & words] == []


def test_the_repository_names_no_machine() -> None:
    """Tracked files hold no path of somebody's machine."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
    for file in listed.stdout.decode().split("\0"):
        path = ROOT / file
        if file and path.is_file() and path.suffix not in {".lock", ".png"}:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not [one for one in ("/" + "work/", "/" + "root/.pyenv") if one in text], file
