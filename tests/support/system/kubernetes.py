"""The manifests of `deploy/kubernetes`, file by file and as `kubectl kustomize` renders the overlays."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).parents[3] / "deploy" / "kubernetes"
OVERLAYS = ("everything", "managed")
NO_KUBECTL = "kubectl renders the overlays, and is not installed"

type Manifest = dict[str, Any]


def manifest_files() -> list[Path]:
    """All files with whole objects."""
    return [path for path in sorted(MANIFESTS.rglob("*.yaml")) if path.name != "kustomization.yaml"]


def read_manifests(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


def has_kubectl() -> bool:
    return shutil.which("kubectl") is not None


@cache
def render_overlay(name: str) -> list[Manifest]:
    """What `kubectl apply --kustomize` would send."""
    kubectl = shutil.which("kubectl")
    assert kubectl is not None, NO_KUBECTL
    done = subprocess.run(
        [kubectl, "kustomize", MANIFESTS / name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod that an object makes, if it makes one."""
    pod: Manifest | None = manifest.get("spec", {}).get("template", {}).get("spec")
    return pod


def containers(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each pod with each of its containers."""
    for manifest in manifests:
        pod = pod_of(manifest)
        for container in pod["containers"] if pod else ():
            yield pod or {}, container
