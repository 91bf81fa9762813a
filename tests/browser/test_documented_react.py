"""TypeScript of README and the pages passes the `strict` check, with the real packages."""

import json
import re
import shutil
from pathlib import Path

import pytest

from rejoin.cli.new_project import create_project
from tests.support.browser.browser_site import HERE
from tests.support.browser.node import install_packages, run_command

ROOT = HERE.parents[1]
ASSISTANT_UI = HERE / "assistant_ui"
CHECK_S_MAX = 120.0
OPTIONS = {
    "strict": True,
    "noEmit": True,
    "skipLibCheck": True,
    "jsx": "react-jsx",
    "module": "esnext",
    "moduleResolution": "bundler",
    "target": "es2022",
    "lib": ["es2023", "dom", "dom.iterable"],
    "types": [],
    "paths": {"rejoin": ["./rejoin.d.ts"]},
}


def tsx(page: str) -> str:
    """All TSX blocks of a page, as one module."""
    return "\n".join(re.findall(r"```tsx\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL))


PRELUDE = """
import { useChat } from '@ai-sdk/react';
import {
  DefaultChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses, TextStreamChatTransport,
  type UIMessage,
} from 'ai';
import { RejoinChatTransport } from 'rejoin';
declare const id: string, token: string, activeRunId: string | undefined, initial: UIMessage[];
declare const headers: Record<string, string>, loadAgain: () => void;
declare const transport: RejoinChatTransport, part: { approval: { id: string }; input: object };
declare const addToolApprovalResponse: ReturnType<typeof useChat>['addToolApprovalResponse'];
export {};
"""
"""What the fragments of a page take for granted."""


def fragments() -> list[str]:
    """The blocks of the pages that are no whole modules, without their imports."""
    found = [block for block in blocks() if "export " not in block]
    return [re.sub(r"^import .*\n", "", block, flags=re.MULTILINE) for block in found]


def modules() -> list[str]:
    """The blocks of the pages that are whole modules, but for those of Next.js, which import others."""
    return [block for block in blocks() if "export " in block and "'@/" not in block]


def blocks() -> list[str]:
    """All TypeScript of the pages."""
    pages = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "adr"]
    pattern = re.compile(r"```tsx?\n(.*?)```", re.DOTALL)
    return [block for page in pages for block in pattern.findall(page.read_text(encoding="utf-8"))]


async def type_errors(folder: Path, *codes: str, packages: Path = HERE) -> str:
    """What the compiler reports of these modules, or nothing."""
    (folder / "node_modules").symlink_to(packages / "node_modules")
    shutil.copy(ROOT / "clients/js/rejoin.d.ts", folder)
    files = [f"page{number}.tsx" for number in range(len(codes))]
    for file, code in zip(files, codes, strict=True):
        (folder / file).write_text(code, encoding="utf-8")
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": files}))
    exit_code, output = await run_command(
        folder, str(HERE / "node_modules/.bin/tsc"), "--project", str(folder), seconds=CHECK_S_MAX
    )
    return output if exit_code else ""


@pytest.mark.slow
async def test_the_react_component_of_the_readme_type_checks_and_shows_an_approve_button(
    node: str, tmp_path: Path
) -> None:
    assert node
    code = tsx("README.md")
    assert await type_errors(tmp_path, code) == ""
    assert "addToolApprovalResponse" in code
    assert ">Approve</button>" in code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("initial: UIMessage[]", "initial"),
        ("part.approval.id", "part.approval.number"),
        ("api: '/api/chat'", "path: '/api/chat'"),
    ],
)
async def test_the_check_notices_a_mistake(node: str, tmp_path: Path, right: str, wrong: str) -> None:
    """Without types of a property, with a field that is not there, with an option of ours that is not."""
    assert node
    code = tsx("README.md")
    assert code.count(right) >= 1
    assert "error TS" in await type_errors(tmp_path, code.replace(right, wrong))


@pytest.mark.slow
async def test_the_fragments_of_the_pages_type_check(node: str, tmp_path: Path) -> None:
    """Each with what its page takes for granted; all in one module, as async functions."""
    assert node
    found = fragments()
    assert len(found) > 5
    functions = [f"async function fragment{n}() {{\n{code}}}\n" for n, code in enumerate(found)]
    assert await type_errors(tmp_path, PRELUDE + "".join(functions)) == ""


@pytest.mark.slow
async def test_the_modules_of_the_pages_type_check(node: str, tmp_path: Path) -> None:
    """Those with assistant-ui beside its packages, which bring the AI SDK as well."""
    assert node
    await install_packages(ASSISTANT_UI)
    found = modules()
    with_assistant_ui = [code for code in found if "@assistant-ui" in code]
    others = [code for code in found if code not in with_assistant_ui]
    assert (len(with_assistant_ui), len(others)) >= (1, 4)
    for name, packages, codes in (("own", HERE, others), ("assistant-ui", ASSISTANT_UI, with_assistant_ui)):
        folder = tmp_path / name
        folder.mkdir()
        assert await type_errors(folder, *codes, packages=packages) == ""


@pytest.mark.slow
async def test_the_page_of_a_new_project_type_checks(node: str, tmp_path: Path) -> None:
    assert node
    page = create_project(tmp_path, "till", react=True) / "web"
    (page / "node_modules").symlink_to(HERE / "node_modules")
    files = ["src/main.tsx", "src/Chat.tsx"]
    options = {**OPTIONS, "paths": {"react-dom/client": ["./react-dom.d.ts"]}}
    (page / "react-dom.d.ts").write_text(
        "export function createRoot(at: Element): { render(node: unknown): void };"
    )
    (page / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": files}))
    exit_code, output = await run_command(
        page, str(HERE / "node_modules/.bin/tsc"), "--project", str(page), seconds=CHECK_S_MAX
    )
    assert (exit_code, output) == (0, "")
