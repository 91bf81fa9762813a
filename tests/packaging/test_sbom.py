"""`make sbom`: the list of what an image contains is CycloneDX, and names what the image's extras install."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
IMAGES = ("gateway", "runner")
OWN = {
    "gateway": {"mcp", "pillow", "swagger-ui-bundle-v2"},
    "runner": {"anthropic", "openai", "pydantic-ai-slim"},
}
"""Some of what is in one image, and for the most part not in the other."""
FOR_TESTS = {"pytest", "mypy", "ruff", "playwright"}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("sbom")
    made = subprocess.run(
        ["/usr/bin/env", "make", "sbom", f"SBOM_DIR={place}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    files = [Path(line) for line in made.stdout.splitlines() if line.endswith(".json")]
    assert files == [place / f"sbom-{image}.cdx.json" for image in IMAGES]
    return {image: json.loads(file.read_bytes()) for image, file in zip(IMAGES, files, strict=True)}


def extras_of(image: str) -> list[str]:
    """The extras that the Dockerfile installs into the image by default."""
    stage = (ROOT / "Dockerfile").read_text().partition(f"\nFROM build AS build-{image}\n")[2]
    features = re.findall(r'^ARG FEATURES="(.+)"$', stage, re.MULTILINE)[0]
    return [image, *re.findall(r"--extra (\S+)", features)]


def installed(image: str) -> dict[str, str]:
    """The packages of the image's extras with their versions, on any platform, as `uv.lock` has them."""
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    packages = {one["name"]: one for one in locked}
    assert len(packages) == len(locked), "each in one version"
    waiting, found = [("rejoin", extra) for extra in extras_of(image)], set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        package = packages[name]
        needed = package.get("optional-dependencies", {}).get(extra, []) if extra else []
        for one in (*package.get("dependencies", ()), *needed):
            waiting += [(one["name"], more) for more in ("", *one.get("extra", ()))]
    return {name: packages[name]["version"] for name, _ in found if name != "rejoin"}


@pytest.mark.parametrize("image", IMAGES)
def test_it_lists_what_the_image_installs_and_nothing_more(documents: dict[str, Any], image: str) -> None:
    components = documents[image]["components"]
    listed = {one["name"]: one["version"] for one in components}
    assert listed == installed(image)
    assert len(listed) == len(components)
    assert OWN[image] <= listed.keys()
    assert not FOR_TESTS & listed.keys()
    assert listed.keys() != {one["name"] for one in documents[IMAGES[image == IMAGES[0]]]["components"]}


@pytest.mark.parametrize("image", IMAGES)
def test_it_is_cyclonedx_with_hashes(documents: dict[str, Any], image: str) -> None:
    """The fields that its schema requires, references that lead somewhere, a hash of each file."""
    document = documents[image]
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["metadata"]["component"]["name"] == "rejoin"
    for one in document["components"]:
        assert one["type"] == "library"
        assert one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}"
        files = [file for file in one["externalReferences"] if file["type"] == "distribution"]
        assert files, one["name"]
        assert all(one["alg"] == "SHA-256" and len(one["content"]) == 64 for one in hashes_of(files))
        assert all(file["url"].startswith("https://files.pythonhosted.org/") for file in files)
    known = {one["bom-ref"] for one in (document["metadata"]["component"], *document["components"])}
    referred = {ref for one in document["dependencies"] for ref in (one["ref"], *one.get("dependsOn", ()))}
    assert referred == known


def hashes_of(files: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The hashes of files, of which each has one."""
    found = [one for file in files for one in file["hashes"]]
    assert len(found) == len(files)
    return found
