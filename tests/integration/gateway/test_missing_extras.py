"""A process without an extra says what to install for the feature, and everything else works."""

import re
import sys

import msgspec
import pytest

from rejoin import Agent, McpServer
from rejoin_gateway.ui.pages import SWAGGER_FILES
from rejoin_protocol import file_formats
from rejoin_protocol.errors import Invalid
from rejoin_runner.demo import build_demo_agent
from tests.support.clients.attachments import PNG
from tests.support.system.local_system import LocalSystem


@pytest.fixture
def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if only the extras `gateway` and `runner` were installed."""
    for module in ("PIL", "mcp", "swagger_ui_bundle", "anthropic"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "pydantic_ai.models.anthropic", raising=False)


@pytest.mark.usefixtures("without_extras")
async def test_a_gateway_that_cannot_decode_images_refuses_them_and_takes_all_else(
    system: LocalSystem,
) -> None:
    base = await system.gateway()
    await system.runner()
    path = f"{base}/api/agents/{system.agent}/{system.fresh('s')}"
    text = {"type": "text", "text": "echo hello"}
    for media_type, data, status in (
        ("image/png", PNG, 400),
        ("text/plain", b"a text", 200),
    ):
        file = {"type": "file", "mediaType": media_type, "url": file_formats.to_data_url(media_type, data)}
        async with system.http.post(path, json={"message": [text, file]}) as response:
            body = await response.text()
            assert response.status == status
        if status == 400:
            [error] = msgspec.json.decode(body)["errors"]
            assert error["pointer"] == "/message/1"
            assert error["detail"] == (
                'this gateway takes no images: it needs the extra images: pip install "rejoin[images]"'
            )
            assert (await system.get(path)).status == 404, "nothing was stored"
    sent, _ = (await system.get(path)).json["messages"]
    assert [part["type"] for part in sent["parts"]] == ["text", "file"]


@pytest.mark.usefixtures("without_extras")
async def test_an_mcp_client_is_told_what_the_gateway_needs(system: LocalSystem) -> None:
    base = await system.gateway()
    for method in ("POST", "DELETE"):
        async with system.http.request(
            method, f"{base}/v1/mcp", json={"jsonrpc": "2.0", "id": 1}
        ) as response:
            assert response.status == 501
            error = (await response.json())["error"]
        assert error["message"] == 'MCP at this gateway needs the extra mcp: pip install "rejoin[mcp]"'


@pytest.mark.usefixtures("without_extras")
async def test_the_docs_page_leads_to_the_description_and_names_the_extra(system: LocalSystem) -> None:
    base = await system.gateway()
    page = await system.get(f"{base}/docs")
    assert page.status == 200
    text = page.raw.decode()
    assert 'href="/openapi.json"' in text
    assert 'pip install "rejoin[api-docs]"' in text
    for name in re.findall(r"""(?:src|href)="(/page/[^"]+)""", text):
        assert (await system.get(base + name)).status == 200
    for name in SWAGGER_FILES:
        assert (await system.get(f"{base}/page/{name}")).status == 404
    assert (await system.get(f"{base}/openapi.json")).json["openapi"] == "3.1.0"


@pytest.mark.usefixtures("without_extras")
async def test_a_runner_whose_agent_needs_an_extra_does_not_start_and_says_so(system: LocalSystem) -> None:
    anthropic = Agent(name="claude", model="anthropic:claude-sonnet-5")
    with pytest.raises(Invalid) as refused:
        await system.runner([anthropic], model_api_key="k")
    assert str(refused.value) == (
        "agent claude: the model provider anthropic needs the extra anthropic: "
        'pip install "rejoin[anthropic]"'
    )
    server = McpServer(name="issues", url="https://mcp.example.com/mcp")
    with pytest.raises(Invalid) as refused:
        await system.runner([msgspec.structs.replace(build_demo_agent(), mcp=[server])])
    assert str(refused.value) == (
        'the MCP server issues of an agent needs the extra mcp: pip install "rejoin[mcp]"'
    )
