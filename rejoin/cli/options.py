"""What all commands share: how settings are loaded, the option `--config`, groups and their errors.

This module reads the environment and configuration files.
"""

import getpass
import os
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
import msgspec

from rejoin.cli.operate.printing import parse_since
from rejoin_adapters.actor import Actor, act_as
from rejoin_protocol import settings
from rejoin_protocol.errors import Invalid, RejoinError


class RejoinGroup(click.Group):
    """Prints a `RejoinError` as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Raises `ClickException` for a `RejoinError`."""
        try:
            return super().invoke(ctx)
        except RejoinError as fault:
            raise click.ClickException(str(fault)) from fault


class LazyGroup(click.Group):
    """A group that imports its commands when it is called. `load_commands` returns them by name."""

    def __init__(
        self, *arguments: Any, load_commands: Callable[[], Mapping[str, click.Command]], **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self._load_commands = load_commands

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it with this argument
        """The names of the group's commands."""
        return sorted(self._load_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """A command by name. None if the group has no such command."""
        return self._load_commands().get(cmd_name)


def load[T: msgspec.Struct](kind: type[T], config: Path | None) -> T:
    """Load settings from the environment, secret files and a TOML file, and configure the logs with them.

    Raises `Invalid` for a missing or wrong setting, or a file that cannot be read.
    """
    toml = _read_toml(config) if config else {}
    loaded = settings.load(kind, os.environ, read=lambda path: Path(path).read_text(), toml=toml)
    from rejoin_adapters.log_setup import configure_logs  # logging takes longer to import than the rest

    configure_logs(getattr(loaded, "log_level", "info"), getattr(loaded, "log_format", "auto"))
    return loaded


def _read_toml(path: Path) -> Mapping[str, Any]:
    import tomllib  # few commands get a file

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise Invalid(f"{path} cannot be read as TOML: {fault}") from fault


config_option_of = partial(
    click.option,
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read settings from this TOML file. Environment variables take precedence.",
)
config_option = config_option_of(envvar="REJOIN_CONFIG", show_envvar=True)


def _parse_since(_context: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    """The time that an operator has typed. Raises `BadParameter` for any other text."""
    try:
        return None if text is None else parse_since(text, datetime.now(UTC))
    except (ValueError, OverflowError) as fault:
        raise click.BadParameter(str(fault)) from None


def since_option(what: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """The option `--since` of a list. `what` happened then or later."""
    text = f"Only those that were {what} since: 30m, 12h, 7d, or a time such as 2026-01-31T12:00 (UTC)."
    return click.option("--since", callback=_parse_since, metavar="AGE|TIME", help=text)


limit_option = click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many to list."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object on each line.")


def _operator() -> str:
    """The user of the operating system. In a container it may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


class GroupOptions(msgspec.Struct, frozen=True):
    """The options between a group's name and the name of its command."""

    config: Path | None
    tenant: str | None = None


def with_settings(kind: type[msgspec.Struct]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Pass the settings to a group's command as its first argument.

    `--config` may stand after the command's name, too. `--help` needs no settings.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @config_option
        @click.pass_obj
        @wraps(command)
        def call(group: GroupOptions, /, config: Path | None, **options: Any) -> None:
            loaded = load(kind, group.config or config)
            act_as(Actor(f"operator {_operator()}", socket.gethostname()))
            if group.tenant is not None:
                loaded = msgspec.structs.replace(loaded, tenant=group.tenant)
            command(loaded, **options)

        return call

    return decorate
