"""The style rules of the project that a program can check."""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "adapters", "gateway", "runner", "rejoin")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
FOLDER_MODULES_MAX = 15

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
CLIENT = sorted((ROOT / "clients" / "python" / "rejoin_client").rglob("*.py"))
OTHERS = CLIENT + sorted(path for folder in ("examples", "bench") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
ALL = SOURCES + TESTS + OTHERS
PROTOCOL = ROOT / "protocol" / "rejoin_protocol"
PURE = sorted(path for path in PROTOCOL.rglob("*.py") if path.name != "__init__.py")
PROTOCOL_TESTS = ROOT / "tests" / "unit" / "protocol"
IMPURE = {"asyncio", "socket", "time", "random", "secrets", "os", "pathlib", "aiohttp"}
ENTRY_POINTS = {
    "rejoin/cli/main.py",
    "rejoin/cli/options.py",
    "rejoin/dev/preload.py",
    "rejoin/dev/prepare.py",
    "runner/rejoin_runner/__main__.py",
    "runner/rejoin_runner/tools/isolated_process.py",
}
"""Only these may read the environment."""
LATE_IMPORTS = {
    "adapters/rejoin_adapters/embedded/postgres.py",
    "protocol/rejoin_protocol/broker/nats_credentials.py",
    "protocol/rejoin_protocol/security/sealing.py",
    "rejoin/cli/options.py",
    "gateway/rejoin_gateway/auth/authenticator.py",
    "rejoin/cli/main.py",
    "gateway/rejoin_gateway/core/agent_context.py",
    "gateway/rejoin_gateway/core/tool_outputs.py",
    "gateway/rejoin_gateway/api/mcp/endpoint.py",
    "gateway/rejoin_gateway/ui/pages.py",
    "rejoin/dev/code_reload.py",
    "rejoin/pytest_plugin.py",
    "runner/rejoin_runner/app.py",
    "runner/rejoin_runner/models/chat_completions/request_body.py",
    "runner/rejoin_runner/models/prices.py",
    "runner/rejoin_runner/models/providers/provider.py",
    "runner/rejoin_runner/mcp/remote_tool.py",
    "runner/rejoin_runner/tools/schema_fault.py",
    "runner/rejoin_runner/tools/docstring.py",
}
"""These import inside of functions: few processes need the library, and all would wait for it. A model
provider's library takes seconds to import.
"""
PRIVATE_ACCESS = {
    "adapters/rejoin_adapters/process/schema_check.py",
    "adapters/rejoin_adapters/jetstream/nats_client.py",
    "runner/rejoin_runner/worker/loop_watch.py",
}
"""Only these use private attributes, of nats-py, `sys` and jsonschema (`noqa: SLF001`)."""


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


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "rejoin" else parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def defined_names(path: Path) -> set[str]:
    """The names that a module defines itself at module level."""
    found: set[str] = set()
    for node in parsed(path).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                found.add(node.name)
            case ast.TypeAlias():
                found.add(node.name.id)
            case ast.Assign():
                found.update(one.id for one in ast.walk(node) if isinstance(one, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=target)):
                found.add(target)
            case _:
                pass
    return found


def test_files_are_short() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL}
    assert {file: count for file, count in lines.items() if count > FILE_LINES_MAX} == {}


def test_functions_are_short() -> None:
    lengths = [
        (name(path), function.name, (function.end_lineno or 0) - function.lineno)
        for path in ALL
        for function in functions(path)
    ]
    assert lengths
    assert [entry for entry in lengths if entry[2] >= FUNCTION_LINES_MAX] == []


def test_folders_hold_few_modules() -> None:
    """A folder with more modules than fit into one look becomes two folders."""
    counts = Counter(name(path.parent) for path in ALL if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > FOLDER_MODULES_MAX} == {}


def test_imports_follow_the_layers() -> None:
    """`protocol` ← `adapters` ← `gateway` | `runner` ← `rejoin`; only adapters import the drivers.

    import-linter checks the same along chains of imports (`make lint`).
    """
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


def test_no_modules_import_each_other() -> None:
    """Imports inside of functions count, too: a late import must not hide a circle."""
    modules = {module_name(path): path for path in SOURCES}
    graph = {module: {used for used in imports(path) if used in modules} for module, path in modules.items()}
    ordered = list(TopologicalSorter(graph).static_order())  # raises `CycleError`, which names the circle
    assert len(ordered) == len(modules)


def test_each_name_has_one_import_path() -> None:
    """A name is imported from the module that defines it. The facade `rejoin` is the only re-export."""
    defined = {module_name(path): defined_names(path) for path in SOURCES}
    indirect = []
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom) and node.module in defined:
                for alias in node.names:
                    is_module = f"{node.module}.{alias.name}" in defined
                    if not (is_module or alias.name in defined[node.module]):
                        indirect.append(f"{name(path)}: {node.module}.{alias.name}")
    assert indirect == []


def test_each_class_name_is_defined_once() -> None:
    counts = Counter(node.name for path in SOURCES for node in nodes(path) if isinstance(node, ast.ClassDef))
    assert [name for name, count in counts.items() if count > 1] == []


def test_each_public_constant_is_defined_once() -> None:
    """A reader who searches for a constant finds one definition. Each route family has its `ROUTES`."""
    counts = Counter(
        target.id
        for path in SOURCES
        for node in parsed(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id.isupper() and not target.id.startswith("_")
    )
    assert counts["ROUTES"] > 1
    assert [name for name, count in counts.items() if count > 1 and name != "ROUTES"] == []


def test_the_client_imports_none_of_our_packages() -> None:
    assert CLIENT
    assert [
        name(path)
        for path in CLIENT
        if roots(path) & {"rejoin", *(f"rejoin_{package}" for package in PACKAGES), "tests", "examples"}
    ] == []


def test_only_entry_points_read_the_environment() -> None:
    readers = {
        name(path) for path in SOURCES if re.search(r"os\.environ|getenv", path.read_text(encoding="utf-8"))
    }
    assert readers == ENTRY_POINTS


def test_imports_are_at_module_level() -> None:
    late = {
        name(path)
        for path in SOURCES
        for function in functions(path)
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(function))
    }
    assert late == LATE_IMPORTS


def test_few_files_use_private_attributes_of_libraries() -> None:
    users = {name(path) for path in SOURCES if re.search(r"noqa:.*SLF001", path.read_text(encoding="utf-8"))}
    assert users == PRIVATE_ACCESS


def test_modules_keep_no_mutable_state() -> None:
    """A constant, named in capitals, may hold a table that nothing changes."""
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


def test_tasks_belong_to_task_groups() -> None:
    calls = [
        (name(path), ast.unparse(node))
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "gather", "ensure_future"}
    ]
    assert calls
    assert [call for call in calls if call[1] not in {"group.create_task", "self._group.create_task"}] == []


def test_each_protocol_module_has_its_own_test_file() -> None:
    assert PURE
    assert [
        name(path)
        for path in PURE
        if not (PROTOCOL_TESTS / path.parent.relative_to(PROTOCOL) / f"test_{path.name}").exists()
    ] == []


def test_each_module_has_a_docstring() -> None:
    missing = {name(path) for path in ALL if not ast.get_docstring(parsed(path))}
    assert [file for file in missing if not file.endswith("__main__.py")] == []


def test_no_module_has_an_empty_name() -> None:
    """A name such as `helper` does not describe the module's content."""
    words = {"manager", "helper", "handler", "util", "utils", "common"}
    assert [name(path) for path in SOURCES if set(path.stem.split("_")) & words] == []


def test_no_tracked_file_holds_a_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
    for file in listed.stdout.decode().split("\0"):
        path = ROOT / file
        if file and path.is_file() and path.suffix not in {".lock", ".png"}:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not [part for part in ("/" + "work/", "/" + "root/.pyenv") if part in text], file


API = ROOT / "gateway" / "rejoin_gateway" / "api"
DISPATCH = API / "chat_dispatch.py"
"""Stands above the families: three of them answer `POST /api/chat`."""
SHARED_BY_FAMILIES = "shared"
PORTS = {"store", "log", "queue", "control", "agents", "sessions", "artifacts", "attachments", "sealer"}


def test_api_families_import_no_other_family() -> None:
    prefix = "rejoin_gateway.api."
    families = {path.relative_to(API).parts[0].removesuffix(".py") for path in API.rglob("*.py")}
    found = []
    for path in sorted(API.rglob("*.py")):
        family = path.relative_to(API).parts[0].removesuffix(".py")
        used = {
            module.removeprefix(prefix).split(".")[0] for module in imports(path) if module.startswith(prefix)
        }
        foreign = used & families - {family, SHARED_BY_FAMILIES}
        if foreign and path != DISPATCH:
            found.append((name(path), foreign))
    assert {"sessions", "run", "parts", "openai", "mcp", SHARED_BY_FAMILIES} <= families
    assert found == []


def test_routes_reach_no_port_through_the_backend() -> None:
    """A route calls `Session`, `AgentSession`, `Directory` or a method of `Backend`."""

    def is_backend(node: ast.expr) -> bool:
        return isinstance(node, ast.Attribute | ast.Name) and (
            (node.attr if isinstance(node, ast.Attribute) else node.id) == "backend"
        )

    found = [
        (name(path), ast.unparse(node))
        for path in [*API.rglob("*.py"), *(API.parent / "ui").rglob("*.py")]
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr in PORTS and is_backend(node.value)
    ]
    assert found == []
    fields = parsed(API.parent / "core" / "backend.py")
    [backend] = [one for one in fields.body if isinstance(one, ast.ClassDef) and one.name == "Backend"]
    assert {ast.unparse(one.target) for one in backend.body if isinstance(one, ast.AnnAssign)} >= PORTS
