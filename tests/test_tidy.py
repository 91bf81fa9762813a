"""The house rules, as tests: what the style asks for and a machine can see."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "gateway", "runner", "migrations")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
CLIENT = sorted((ROOT / "clients" / "python" / "rejoin_client").rglob("*.py"))
OTHERS = CLIENT + sorted(path for folder in ("examples", "bench") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PURE = sorted(path for path in (ROOT / "protocol").glob("*.py") if path.name != "__init__.py")
WIRING = {"gateway/cli.py", "gateway/dev.py", "runner/app.py", "runner/__main__.py"}
"""The entry points: they alone may look at the environment."""
LAZY = {"runner/models/provider.py"}
"""Where importing late is the purpose: a provider's library costs seconds."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES + TESTS + OTHERS, ids=name)
def test_a_file_fits_in_a_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("path", SOURCES + TESTS + OTHERS, ids=name)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, node.name


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    """`protocol` ← `protocol.adapters` ← `gateway` | `runner`, and drivers stay in the adapters."""
    used = set(imports(parsed(path)))
    roots = {module.split(".")[0] for module in used}
    package, adapter = name(path).split("/")[0], "adapters" in path.parts
    allowed = {"gateway": {"gateway", "protocol"}, "runner": {"runner", "protocol"}}
    ours = roots & {"gateway", "runner", "protocol", "migrations", "tests"}
    assert ours <= allowed.get(package, {"protocol"})
    if not adapter:
        assert not roots & {"nats", "asyncpg"}
    if package != "gateway":
        assert "aiohttp.web" not in used
    if package == "protocol" and not adapter:
        assert not any(module.startswith("protocol.adapters") for module in used)
        assert not roots & {"asyncio", "socket", "time", "random", "secrets", "os", "pathlib", "aiohttp"}


@pytest.mark.parametrize("path", CLIENT, ids=name)
def test_the_client_needs_nothing_of_ours(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(parsed(path))} & {*PACKAGES, "tests", "examples"}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_entry_points_read_the_environment(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ("os.environ" not in text and "getenv" not in text) or name(path) in WIRING


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_is_imported_inside_a_function(path: Path) -> None:
    for function in ast.walk(parsed(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and name(path) not in LAZY:
            assert not [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_module_keeps_mutable_state(path: Path) -> None:
    """A name in capitals may hold a table that nobody changes; everything else is immutable or a function."""
    for node in parsed(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets += [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            value = getattr(node, "value", None)
            mutable = isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp)
            words = ast.unparse(target).lstrip("_")
            assert not mutable or words == words.upper() or words == "all__", words


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_tasks_live_in_groups(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "gather", "ensure_future"}:
            assert node.attr == "create_task", node.attr
            assert ast.unparse(node.value) in {"group", "self._group"}, ast.unparse(node)


@pytest.mark.parametrize("path", PURE, ids=name)
def test_a_pure_file_has_a_test_of_its_own(path: Path) -> None:
    assert (ROOT / "tests" / "unit" / f"test_{path.name}").exists()


@pytest.mark.parametrize("path", SOURCES + TESTS + OTHERS, ids=name)
def test_a_module_says_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(parsed(path)) or path.name == "__main__.py"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_words_are_the_fields(path: Path) -> None:
    assert not set(path.stem.split("_")) & {"manager", "helper", "handler", "util", "utils", "common"}


def test_the_repository_names_no_machine() -> None:
    """Tracked files hold no path of somebody's machine."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
    for file in listed.stdout.decode().split("\0"):
        path = ROOT / file
        if file and path.is_file() and path.suffix not in {".lock", ".png"}:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not [one for one in ("/" + "work/", "/" + "root/.pyenv") if one in text], file
