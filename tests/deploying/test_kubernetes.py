"""examples/kubernetes: valid, whole, safe, and its commands serve and upgrade without a failure."""

from __future__ import annotations

import io
import itertools
import json
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

import teravec
from teravec.errors import TeravecError
from teravec.index.opened import OPEN_END
from teravec.serving.coordinator.topology import Topology, parse_ranges
from tests.deploying.conftest import (
    CALLERS,
    EXAMPLES,
    LISTS,
    ROOT,
    SERVERS,
    VERSIONS,
    Command,
    Site,
    documents,
    replace,
    until,
)
from tests.serving.conftest import NLIST, QUERIES

FOLDER = EXAMPLES / "kubernetes"
MANIFEST = documents(FOLDER / "teravec.yaml")
VERSION = "1.34"
CLOSE_S = 10  # that a process takes after draining, at most
CUSTOM = {"ServiceMonitor"}  # kinds whose schema Kubernetes does not have
Object = dict[str, Any]


def of_kind(*kinds: str) -> list[Object]:
    return [each for each in MANIFEST if each["kind"] in kinds]


WORKLOADS = of_kind("StatefulSet", "Deployment")


def pod_of(workload: Object) -> Object:
    return workload["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def container_of(workload: Object) -> Object:
    (container,) = pod_of(workload)["containers"]
    return container  # type: ignore[no-any-return]


def labels_of(workload: Object) -> dict[str, str]:
    return workload["spec"]["template"]["metadata"]["labels"]  # type: ignore[no-any-return]


def selected(selector: Object, labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


workloads = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w["metadata"]["name"])


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.rglob("*.y*ml")), ids=lambda path: str(path.relative_to(EXAMPLES))
)
def test_yaml_lints(path: Path) -> None:
    config = YamlLintConfig(file=str(ROOT / ".yamllint.yaml"))
    found = linter.run(io.StringIO(path.read_text()), config, str(path.relative_to(ROOT)))
    assert [str(problem) for problem in found] == []


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_objects_fit_their_schemas(path: Path) -> None:
    checked = [each for each in documents(path) if each["kind"] not in CUSTOM]
    for each in checked:
        kubernetes_validate.validate(each, VERSION, strict=True)
    assert checked or path.name == "monitoring.yaml"


def test_a_schema_finds_a_misspelt_field() -> None:
    broken = yaml.safe_load(yaml.safe_dump(WORKLOADS[0]))
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_it_is_whole(tmp_path: Path, flags: set[str]) -> None:
    """Every name that an object gives is the name of an object, or of a secret in the comments."""
    assert all(each["metadata"].get("namespace", "teravec") == "teravec" for each in MANIFEST)
    assert MANIFEST[0]["kind"] == "Namespace"
    named = {(each["kind"], each["metadata"]["name"]) for each in MANIFEST}
    assert len(named) == len(MANIFEST)
    told = set(re.findall(r"secret generic (\S+)", (FOLDER / "teravec.yaml").read_text()))
    for workload in WORKLOADS:
        for volume in pod_of(workload)["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["secretName"] in told
            elif "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in named
            else:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in named
    for each in of_kind("StatefulSet"):
        assert ("Service", each["spec"]["serviceName"]) in named
    assert len(WORKLOADS) == 3
    assert all(each["spec"]["replicas"] == 2 for each in WORKLOADS)


def test_topology_names_every_server_with_its_lists(tmp_path: Path) -> None:
    (config,) = of_kind("ConfigMap")
    (tmp_path / "t.json").write_text(config["data"]["topology.json"])
    entries = {str(e.address): e.lists for e in Topology.read(tmp_path / "t.json").entries}
    expected = {}
    for each in of_kind("StatefulSet"):
        name, lists = each["metadata"]["name"], option(container_of(each), "--lists")
        for number in range(each["spec"]["replicas"]):
            host = f"{name}-{number}.{each['spec']['serviceName']}.teravec.svc.cluster.local"
            expected[f"{host}:7400"] = parse_ranges(lists)
    assert entries == expected
    ends = sorted({end for ranges in entries.values() for end in ranges or ()})
    assert [ends[0][0], ends[-1][1]] == [0, OPEN_END]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))


def option(container: Object, name: str) -> str:
    (value,) = [a.split("=", 1)[1] for a in container["args"] if a.startswith(f"{name}=")]
    return str(value)


@workloads
def test_pods_are_selected(workload: Object) -> None:
    """By one service, one disruption budget and one network policy each; and spread over nodes."""
    labels = labels_of(workload)
    assert selected(workload["spec"]["selector"]["matchLabels"], labels)
    others = [w for w in WORKLOADS if w is not workload]
    assert not any(
        selected(workload["spec"]["selector"]["matchLabels"], labels_of(w)) for w in others
    )
    (service,) = [s for s in of_kind("Service") if selected(s["spec"]["selector"], labels)]
    ports = {port["name"]: port["containerPort"] for port in container_of(workload)["ports"]}
    assert {p["name"]: p["port"] for p in service["spec"]["ports"]} == ports
    (budget,) = [
        b
        for b in of_kind("PodDisruptionBudget")
        if selected(b["spec"]["selector"]["matchLabels"], labels)
    ]
    assert budget["spec"]["maxUnavailable"] == 1
    (_,) = [
        p
        for p in of_kind("NetworkPolicy")
        if selected(p["spec"]["podSelector"]["matchLabels"], labels)
    ]
    by_node = pod_of(workload)["topologySpreadConstraints"][0]
    assert by_node["topologyKey"] == "kubernetes.io/hostname"
    assert by_node["whenUnsatisfiable"] == "DoNotSchedule"
    assert selected(by_node["labelSelector"]["matchLabels"], labels)


@workloads
def test_pods_are_confined(workload: Object) -> None:
    """As the restricted Pod Security Standard wants, and without a service account's token."""
    pod, container = pod_of(workload), container_of(workload)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


@workloads
def test_commands_are_known_and_times_fit(workload: Object, flags: set[str]) -> None:
    pod, container = pod_of(workload), container_of(workload)
    assert {a.split("=")[0] for a in container["args"] if a.startswith("--")} <= flags
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed_s = pause_s + int(option(container, "--drain")) + CLOSE_S
    assert needed_s < pod["terminationGracePeriodSeconds"] <= needed_s + 30
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


def test_servers_are_reached_by_coordinators_and_prometheus_only() -> None:
    policies = {p["metadata"]["name"]: p["spec"] for p in of_kind("NetworkPolicy")}
    servers = policies["teravec-servers"]
    assert servers["policyTypes"] == ["Ingress", "Egress"]
    assert servers["egress"] == []
    by_port = {rule["ports"][0]["port"]: rule["from"] for rule in servers["ingress"]}
    assert set(by_port) == {"flight", "http"}
    (flight,), (http,) = by_port["flight"], by_port["http"]
    (deployment,) = of_kind("Deployment")
    assert selected(flight["podSelector"]["matchLabels"], labels_of(deployment))
    assert "namespaceSelector" in http
    egress = policies["teravec-coordinators"]["egress"]
    to = egress[0]["to"][0]["podSelector"]["matchLabels"]
    assert all(selected(to, labels_of(w)) for w in of_kind("StatefulSet"))


def test_both_ranges_differ_in_name_and_lists_only() -> None:
    first, second = (json.dumps(each) for each in of_kind("StatefulSet"))
    words = {"teravec-a": "teravec-b", "0:32768": "32768:"}
    assert replace(first, words).replace('"lists": "a"', '"lists": "b"') == second


def test_prometheus_scrapes_with_a_token() -> None:
    (monitor,) = documents(FOLDER / "monitoring.yaml")
    services = of_kind("Service")
    assert all(
        selected(monitor["spec"]["selector"]["matchLabels"], s["metadata"]["labels"])
        for s in services
    )
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {p["name"] for s in services for p in s["spec"]["ports"]}
    assert (endpoint["path"], endpoint["scheme"]) == ("/metrics", "https")
    secret = endpoint["authorization"]["credentials"]
    text = (FOLDER / "monitoring.yaml").read_text()
    assert f"secret generic {secret['name']} --from-file={secret['key']}=" in text


class Pods:
    """The pods of the manifest as processes of this machine.

    Parameters
    ----------
    site : Site
    folder : Path
        For the topology and the logs.
    ends : list of Command
    """

    def __init__(self, site: Site, folder: Path, ends: list[Command]) -> None:
        self.site, self._folder = site, folder
        self._topology = folder / "topology.json"
        mounts = {
            "/indexes": site.folder / "indexes",
            "/topology/topology.json": self._topology,
            "/tls/tls.crt": site.certificate,
            "/tls/tls.key": site.key,
            "/tls/ca.crt": site.authority,
            "/servers/tokens": site.servers,
            "/clients/tokens": site.clients,
        }
        self._replacements = LISTS | {path: str(here) for path, here in mounts.items()}
        self.pods: dict[str, tuple[Object, Command]] = {}
        for workload in WORKLOADS:
            container = container_of(workload)
            env = {each["name"]: each["value"] for each in container["env"]}
            for number in range(workload["spec"]["replicas"]):
                name = f"{workload['metadata']['name']}-{number}"
                command = Command(name, container["args"], self._replacements, env)
                self.pods[name] = container, command
                ends.append(command)
        (config,) = of_kind("ConfigMap")
        hosts = {
            f"{name}.{name.rpartition('-')[0]}.teravec.svc.cluster.local:7400": (
                f"127.0.0.1:{command.flight_port}"
            )
            for name, (_, command) in self.pods.items()
        }
        self._topology.write_text(replace(config["data"]["topology.json"], hosts | LISTS))

    def start(self, name: str, index: str | None = None) -> None:
        """Start a pod, with another value of INDEX if that is given."""
        _, command = self.pods[name]
        if index is not None:
            command.environment["INDEX"] = index
        expanded = [
            re.sub(r"\$\((\w+)\)", lambda found: command.environment[found[1]], argument)
            for argument in command.arguments
        ]
        whole, command.arguments = command.arguments, expanded
        command.start(self._folder / f"{name}.log")
        command.arguments = whole

    def probe(self, name: str, kind: str) -> int:
        """The status of a probe."""
        container, command = self.pods[name]
        get = container[f"{kind}Probe"]["httpGet"]
        assert (get["scheme"], get["port"]) == ("HTTPS", "http")
        return command.get(get["path"]).status_code

    def wait_ready(self, name: str) -> None:
        for kind in ("startup", "readiness"):
            until(lambda kind=kind: self.probe(name, kind) == 200)

    def replace(self, name: str, index: str) -> None:
        """As a controller does: end the pod within its time, start it anew, wait until ready."""
        assert self.pods[name][1].end(signal.SIGTERM) == 0
        self.start(name, index)
        self.wait_ready(name)

    @property
    def coordinators(self) -> list[Command]:
        return [command for name, (_, command) in self.pods.items() if "coordinator" in name]

    def connect(self) -> teravec.RemoteIndex:
        return teravec.connect(
            ",".join(command.url for command in self.coordinators),
            token=CALLERS,
            ca=self.site.authority,
        )


@pytest.fixture
def pods(site: Site, tmp_path: Path, ends: list[Command]) -> Pods:
    pods = Pods(site, tmp_path, ends)
    with ThreadPoolExecutor() as starts:
        list(starts.map(pods.start, pods.pods))
    for name in pods.pods:
        pods.wait_ready(name)
    return pods


def test_it_comes_up_and_answers(pods: Pods) -> None:
    """All six commands as they stand: ready, confined to tokens, and exact."""
    true = pods.site.true(VERSIONS[0])
    for front in pods.coordinators:
        with teravec.connect(front.url, token=CALLERS, ca=pods.site.authority) as remote:
            for ours, local in zip(remote.search(QUERIES, 10, NLIST), true, strict=True):
                np.testing.assert_array_equal(ours, local)
    for name, (container, command) in pods.pods.items():
        assert pods.probe(name, "liveness") == 200
        assert command.get("/metrics").status_code == 401
        token = CALLERS if "coordinator" in name else SERVERS
        metrics = command.get("/metrics", token)
        assert "teravec_ready 1.0" in metrics.text
        limit = container["resources"]["limits"]["memory"]
        limit_bytes = int(limit.removesuffix("Gi")) << 30
        assert command.memory_bound_bytes <= limit_bytes <= 1.1 * command.memory_bound_bytes
        assert container["resources"]["requests"]["memory"] == limit


def test_a_coordinator_stays_in_its_service_while_a_range_is_lost(pods: Pods) -> None:
    for name in ("teravec-b-0", "teravec-b-1"):
        pods.pods[name][1].end(signal.SIGKILL)
    front = pods.coordinators[0]
    until(lambda: front.get("/readyz").status_code == 503)
    assert pods.probe("teravec-coordinator-0", "readiness") == 200
    with pods.connect() as remote:
        assert 0 < remote.search_partial(QUERIES, 10, NLIST)[2] < 1
    for name in ("teravec-a-0", "teravec-a-1"):
        pods.pods[name][1].end(signal.SIGKILL)
    until(lambda: pods.probe("teravec-coordinator-0", "readiness") == 503)


def test_set_env_goes_over_to_another_version_without_a_failure(pods: Pods) -> None:
    """``kubectl set env INDEX=...``, as docs/operating.md has it, under load; and back.

    There workload after workload, as with `kubectl rollout status` in between; back, one pod of
    each workload in turn, as three controllers do at the same time.
    """
    there = sorted(pods.pods, reverse=True)  # a StatefulSet replaces its last pod first
    back = sorted(pods.pods, key=lambda name: name.rpartition("-")[::-1], reverse=True)
    order = [(name, VERSIONS[1]) for name in there] + [(name, VERSIONS[0]) for name in back]
    true = [pods.site.true(version) for version in VERSIONS]
    ended, errors, answers = threading.Event(), list[str](), list[int]()

    def ask(row: int) -> None:
        with pods.connect() as remote:
            while not ended.is_set():
                row = (row + 7) % len(QUERIES)
                try:
                    found = remote.search(QUERIES[row : row + 1], 10, NLIST)
                except TeravecError as error:
                    errors.append(f"{type(error).__name__}: {error}")
                    continue
                answers.append(row)
                ended.wait(0.02)  # pods that start meanwhile need processors as well
                if not any(
                    np.array_equal(found[0][0], d[row]) and np.array_equal(found[1][0], i[row])
                    for d, i in true
                ):
                    errors.append(f"wrong answer to {row}")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        for name, version in order:
            pods.replace(name, version)
            time.sleep(0.7)  # minReadySeconds is more
            if (name, version) == order[len(there) - 1]:
                until(lambda: versions_served(pods) == {served_version(pods.site, VERSIONS[1])})
        until(lambda: versions_served(pods) == {served_version(pods.site, VERSIONS[0])})
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len(answers) > 100


def versions_served(pods: Pods) -> set[str]:
    found = set()
    for front in pods.coordinators:
        with teravec.connect(front.url, token=CALLERS, ca=pods.site.authority) as remote:
            found.add(remote.info()["version"])
    return found


def served_version(site: Site, version: str) -> str:
    from teravec.index.manifest import read_manifest
    from teravec.serving.server.served import index_version
    from teravec.storage.layout import IndexPaths

    return index_version(read_manifest(IndexPaths(site.folder / "indexes" / version)))
