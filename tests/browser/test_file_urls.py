"""`<img>` elements load the files of messages, in the browser, on a page of another origin."""

import base64

import pytest
from playwright.async_api import Browser, expect

from rejoin_runner.agent.agent import Agent
from tests.support.clients.attachments import PNG, inline_file_part
from tests.support.clients.file_messages import chat_with_parts, post_chat
from tests.support.models.scripted_models import PictureModel
from tests.support.system.local_system import LocalSystem

KEYS = "k1:" + base64.b64encode(bytes(32)).decode()


@pytest.mark.timeout(120)
@pytest.mark.feature("F120")
@pytest.mark.slow
async def test_an_image_element_shows_sent_and_made_pictures(system: LocalSystem, browser: Browser) -> None:
    """Where everything else needs a credential; the plain path stays closed."""
    await system.runner([Agent(name=system.agent, model=PictureModel(PNG))])
    gateway = await system.gateway(context_encryption_keys=KEYS)
    chat = chat_with_parts(system, inline_file_part(PNG, "image/png"))
    answer = await post_chat(system, gateway, chat)
    assert answer.complete
    closed = await system.gateway(
        context_encryption_keys=KEYS, allow_anonymous=False, api_key_pepper="p" * 16, cors_origins=""
    )
    history = await system.get(f"{gateway}/api/agents/{system.agent}/{chat['id']}")
    sent = history.json["messages"][0]["parts"][1]["url"]
    [made] = [chunk["url"] for chunk in answer.chunks if chunk["type"] == "file"]
    async with await browser.new_context() as context:
        page = await context.new_page()
        for number, url in enumerate((sent, made)):
            await page.set_content(f'<img id="i{number}" src="{closed}{url.replace("&", "&amp;")}">')
            await expect(page.locator("img")).to_have_js_property("naturalWidth", 64)
        await page.set_content(f'<img src="{closed}{sent.partition("?")[0]}">')
        await expect(page.locator("img")).to_have_js_property("complete", value=True)
        await expect(page.locator("img")).to_have_js_property("naturalWidth", 0)
