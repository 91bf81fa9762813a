"""A researcher who has a librarian look things up, and publishes what comes of it as an artifact."""

from rejoin import Agent, ToolContext, tool

MODEL = "openai:gpt-5-mini"
SHELF = {
    "bees": ["Bees see ultraviolet light.", "A bee's dance tells the others where flowers are."],
    "whales": ["A blue whale's heart is as large as a small car.", "Whales sing."],
}


@tool
async def search(ctx: ToolContext[None], query: str) -> list[str]:
    """Find sentences about something."""
    await ctx.emit_status(f"Looking for {query} …")  # who watches sees it; no history keeps it
    return [sentence for word, found in SHELF.items() if word in query.lower() for sentence in found]


@tool
async def publish(ctx: ToolContext[None], title: str, findings: list[str]) -> str:
    """Publish a report."""
    # The whole is stored; everybody sees the preview, and fetches the rest by the artifact's id. If a worker
    # dies here, the next one makes the same artifact, not another one.
    id = await ctx.emit_artifact(
        type="report",
        name=title,
        data={"title": title, "findings": findings},
        preview=["title"],
        summary=f"A report of {len(findings)} findings.",
    )
    return f"Published as {id}."


# Nobody can ask for the librarian: it works in the researcher's runs, in the same message and the same log.
librarian = Agent(
    name="librarian",
    description="Looks things up.",
    model=MODEL,
    instructions="Search, and say what you found. Add nothing of your own.",
    tools=[search],
    max_steps=5,
)

agent = Agent(
    name="research",
    description="Finds things out and writes reports.",
    model=MODEL,
    instructions="Delegate the looking up, publish a report, then say in one sentence what is in it.",
    tools=[publish],
    delegates=[librarian],
)
