"""What the documentation names exists: files, headings, commands, options, settings, make targets."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from rejoin.cli import main
from tests.support import settings_table

ROOT = Path(__file__).parents[3]
FENCED = re.compile(r"^ *```\w*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
COMMAND = re.compile(r"(?<![\w./@-])rejoin (?!import\b)(?=[a-z-])([^#|&;()\n]*)")
PLACE = re.compile(
    r"(?!rejoin/idempotency-key)(?:adapters|bench|clients|deploy|docs|examples|gateway|migrations|protocol|rejoin|runner|tests)/[\w./-]*"
)


def files(*suffixes: str) -> list[Path]:
    """Files of the repository, without installed and generated ones."""
    found = []
    for folder, folders, names in ROOT.walk():
        folders[:] = [name for name in folders if name[0] != "." and name != "node_modules"]
        found += [folder / name for name in names if name.endswith(suffixes)]
    return sorted(found)


PAGES = files(".md")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def inline(text: str) -> list[str]:
    return [" ".join(code.split()) for code in INLINE.findall(FENCED.sub("", text))]


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each `rejoin` command, in code blocks and in sentences."""
    codes = [*FENCED.findall(text), *INDENTED.findall(FENCED.sub("", text)), *inline(text)]
    for words in (words for code in codes for words in COMMAND.findall(code)):
        yield shlex.split(words)


def refusal(command: click.Command, words: list[str]) -> str | None:
    """Click's error for a command line, which is not run. A sentence may leave arguments out."""
    try:
        context = command.make_context("rejoin", list(words))
        while isinstance(command, click.Group):
            _, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None
            command, context = found, found.make_context(found.name, rest, parent=context)
    except (click.MissingParameter, click.exceptions.NoArgsIsHelpError):
        return None
    except click.UsageError as fault:
        return fault.format_message()
    return None


def heading_ids(page: Path) -> set[str]:
    """The ids of headings: lower case, words joined by hyphens."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def variables() -> set[str]:
    """The environment variables of all commands: settings, secret files and options."""
    fields = {
        field.name for kind in settings_table.READERS.values() for field in msgspec.structs.fields(kind)
    }
    names = {f"REJOIN_{name.upper()}" for name in fields}
    options = {str(one.envvar) for command in main.main.commands.values() for one in command.params}
    return names | {f"{name}_FILE" for name in names} | options


def test_the_documents_are_found() -> None:
    assert {"README.md", "CHANGELOG.md"} <= {page.name for page in PAGES}
    assert len(PAGES) > 10


@every_page
def test_every_relative_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    for target, picture in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, heading = (target or picture).partition("#")
        if "://" not in path:
            found = page.parent / path if path else page
            assert found.exists(), path
            assert not heading or found.suffix != ".md" or heading in heading_ids(found), heading


@every_page
def test_every_file_that_it_names_exists(page: Path) -> None:
    for code in inline(page.read_text(encoding="utf-8")):
        if PLACE.fullmatch(code):
            assert (ROOT / code).exists(), code


@every_page
def test_every_command_that_it_names_exists_with_its_options(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".rejoin").mkdir()
    (tmp_path / ".rejoin" / "rejoin.toml").touch()  # what `rejoin dev` would have left
    monkeypatch.chdir(tmp_path)
    for words in commands(page.read_text(encoding="utf-8")):
        assert refusal(main.main, words) is None, words


def test_commands_are_found_and_wrong_ones_are_refused() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(list(commands(text))) > 20
    [words] = commands("As `REJOIN_PORT=1 rejoin runs\nlist --state failed` shows.")
    assert words == ["runs", "list", "--state", "failed"]
    for wrong in ("walk", "runs walk", "runs list --walk", "keys create --scope walk", "doctor now"):
        assert refusal(main.main, wrong.split()), wrong


@every_page
def test_every_variable_that_it_names_is_read(page: Path) -> None:
    named = set(re.findall(r"\bREJOIN_[A-Z0-9_]*[A-Z0-9]\b", page.read_text(encoding="utf-8")))
    unknown = named - variables()
    tests = [path for path in files(".py") if ROOT / "tests" in path.parents] if unknown else []
    texts = [path.read_text(encoding="utf-8") for path in tests]
    unread = {name for name in unknown if not any(f'"{name}"' in text for text in texts)}
    assert unread == set()


@every_page
def test_every_target_of_make_that_it_names_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for code in [*inline(text), *"\n".join(FENCED.findall(text)).splitlines()]:
        for target in re.findall(r"^(?:\w+=\S+ )*make ([a-z]+)", code):
            assert f"\n{target}:" in makefile, target


def test_help_is_given_without_any_settings_and_a_config_is_taken_by_all() -> None:
    """A user who reads the help has not configured the command yet."""
    terminal = CliRunner(env=dict.fromkeys(variables()))
    groups = [one for one in main.main.commands.values() if isinstance(one, click.Group)]
    called = [
        [str(group.name), name, "--help"]
        for group in groups
        for name in group.list_commands(click.Context(group))
    ]
    assert len(called) > len(groups)
    for words in called:
        result = terminal.invoke(main.main, words)
        assert result.exit_code == 0, result.output
        assert "--config FILE" in result.output


def test_locked_packages_come_from_the_public_registries() -> None:
    python = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert set(re.findall(r'registry = "([^"]+)"', python)) == {"https://pypi.org/simple"}
    assert set(re.findall(r'url = "(https?://[^/"]+)', python)) == {"https://files.pythonhosted.org"}
    for lock in files("package-lock.json"):
        resolved = re.findall(r'"resolved": "([^"]+)"', lock.read_text(encoding="utf-8"))
        assert all(url.startswith("https://registry.npmjs.org/") for url in resolved), lock
