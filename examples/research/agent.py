"""A researcher that delegates searches to a librarian and publishes a report as an artifact."""

from rejoin import Agent, ToolContext, tool

MODEL = "openai:gpt-5-mini"
SENTENCES = {
    "bees": ["Bees see ultraviolet light.", "A bee's dance tells the others where flowers are."],
    "whales": ["A blue whale's heart is as large as a small car.", "Whales sing."],
}


@tool
async def search(ctx: ToolContext[None], query: str) -> list[str]:
    """Find sentences about something."""
    await ctx.emit_status(
        f"Looking for {query} …"
    )  # shown to clients that watch; not part of the stored message
    return [sentence for topic, known in SENTENCES.items() if topic in query.lower() for sentence in known]


@tool
async def publish(ctx: ToolContext[None], title: str, findings: list[str]) -> str:
    """Publish a report."""
    # The message shows the preview; clients fetch the complete data by the artifact's id. If a worker crashes
    # here, the retry makes the same artifact and not a second one.
    id = await ctx.emit_artifact(
        type="report",
        name=title,
        data={"title": title, "findings": findings},
        preview=["title"],
        summary=f"A report of {len(findings)} findings.",
    )
    return f"Published as {id}."


# Clients cannot call the librarian: it works in the researcher's runs, in the same message and log.
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
