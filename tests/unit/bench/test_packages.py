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
MCP = {
    "annotated-types",
    "anyio",
    "h11",
    "httpcore2",
    "httpx2",
    "mcp",
    "mcp-types",
    "pydantic",
    "pydantic-core",
    "pyjwt",
    "python-multipart",
    "sse-starlette",
    "starlette",
    "truststore",
    "typing-inspection",
    "uvicorn",
}
GATEWAY = {"cachetools", "jinja2", "markupsafe", "pillow", "swagger-ui-bundle-v2"}
MODELS = {
    "anthropic",
    "docstring-parser",
    "genai-prices",
    "griffelib",
    "jiter",
    "logfire-api",
    "openai",
    "pydantic-ai-slim",
    "pydantic-graph",
    "sniffio",
}


def test_each_extra_brings_these_packages_and_no_others() -> None:
    assert set(packages_of()) == BASE
    assert set(packages_of("gateway")) == BASE | SCHEMAS | MCP | GATEWAY
    assert set(packages_of("runner")) == BASE | SCHEMAS | MCP | MODELS


def test_the_size_is_that_of_the_installed_files() -> None:
    alone, both = size_mb(["click"]), size_mb(["click", "msgspec"])
    assert 0.1 < alone < 2
    assert both > alone
    assert size_mb([]) == 0
