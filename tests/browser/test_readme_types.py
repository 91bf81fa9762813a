"""README's React code passes TypeScript's `strict` check, against the real packages and our own types."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.browser.browser_site import HERE
from tests.support.browser.node import spoken

ROOT = HERE.parents[1]
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


async def type_errors(folder: Path, code: str) -> str:
    """What the compiler reports, or nothing."""
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    shutil.copy(ROOT / "clients/js/rejoin.d.ts", folder)
    (folder / "page.tsx").write_text(code, encoding="utf-8")
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": ["page.tsx"]}))
    exit_code, output = await spoken(
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
