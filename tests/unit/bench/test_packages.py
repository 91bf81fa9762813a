"""What an installation consists of. A new package is a decision: it takes space and time in every process."""

from bench.packages import packages_of, size_mb

BASE = {
    "aiohappyeyeballs",
    "aiohttp",
    "aiosignal",
    "asyncpg",
    "attrs",
    "cffi",
    "click",
    "cryptography",
    "frozenlist",
    "idna",
    "msgspec",
    "multidict",
    "nats-py",
    "opentelemetry-api",
    "prometheus-client",
    "propcache",
    "pycparser",
    "stamina",
    "structlog",
    "tenacity",
    "typing-extensions",
    "yarl",
}
SCHEMAS = {"jsonschema", "jsonschema-specifications", "referencing", "regex", "rpds-py"}
HTTP = {
    "annotated-types",
    "anyio",
    "h11",
    "httpcore2",
    "httpx2",
    "pydantic",
    "pydantic-core",
    "truststore",
    "typing-inspection",
}
GATEWAY = {"cachetools", "pyjwt"}
MODELS = {
    "genai-prices",
    "griffelib",
    "jiter",
    "logfire-api",
    "openai",
    "pydantic-ai-slim",
    "pydantic-graph",
    "sniffio",
}
MCP = {"mcp", "mcp-types", "python-multipart", "sse-starlette", "starlette", "uvicorn"}


def test_each_extra_brings_these_packages_and_no_others() -> None:
    assert set(packages_of()) == BASE
    gateway, runner = set(packages_of("gateway")), set(packages_of("runner"))
    assert gateway == BASE | SCHEMAS | GATEWAY
    assert runner == BASE | SCHEMAS | HTTP | MODELS
    assert set(packages_of("gateway", "images")) - gateway == {"pillow"}
    assert set(packages_of("gateway", "api-docs")) - gateway == {
        "swagger-ui-bundle-v2",
        "jinja2",
        "markupsafe",
    }
    assert set(packages_of("gateway", "mcp")) - gateway == HTTP | MCP
    assert set(packages_of("runner", "mcp")) - runner == MCP | {"pyjwt"}
    assert set(packages_of("runner", "anthropic")) - runner == {"anthropic", "docstring-parser"}


def test_a_gateway_and_a_runner_stay_small() -> None:
    """The goals of docs/bench.md, in megabytes."""
    assert size_mb(packages_of("gateway")) < 60
    assert size_mb(packages_of("runner")) < 90


def test_the_size_is_that_of_the_installed_files() -> None:
    alone, both = size_mb(["click"]), size_mb(["click", "msgspec"])
    assert 0.1 < alone < 2
    assert both > alone
    assert size_mb([]) == 0
