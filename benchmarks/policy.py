"""What the policy model costs: reachability of whole clusters, the scenario stream, parsing, and one question. No packets."""

from __future__ import annotations

import gc
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.row import Row, median
from harness.model.cluster import ClusterState, ContainerPort, Pod
from harness.model.traffic import PodRef, Protocol, Traffic
from harness.policy.evaluate import Evaluator
from harness.policy.reach import Codes, Port, Reach, Reachability
from harness.policy.repository import Repository

Document = dict[str, Any]

SEED = 20_261_123
_NUMBERS = (80, 443, 5432, 6379, 8080, 8443, 9090, 9100)
PORTS: tuple[Port, ...] = (*((Protocol.TCP, port) for port in _NUMBERS), (Protocol.UDP, 53), (Protocol.UDP, 4789))
_NAMED = {"http": 8080, "metrics": 9090, "db": 5432}


def cluster(pods: int, *, shared: float = 0.2, namespaces: int = 20) -> ClusterState:
    """A cluster in which that share of the pods has the identity of another: 1,000 pods are 800 identities."""
    made: list[Pod] = []
    distinct = round(pods * (1 - shared))
    for index in range(pods):
        number = index if index < distinct else index - distinct
        labels = {"app": f"app-{number // 4}", "tier": ("web", "api", "db", "job")[number % 4], "release": f"r{number // (namespaces * 4)}"}
        ports = tuple(ContainerPort(port, Protocol.TCP, name) for name, port in _NAMED.items())
        if number % 7 == 0:
            ports = (ContainerPort(8443, Protocol.TCP, "http"), *ports[1:])
        made.append(Pod(PodRef(f"ns-{number % namespaces}", f"pod-{index}"), labels, f"n{index % 50}", "default", ports))
    return ClusterState({f"ns-{index}": {"team": f"t{index % 5}"} for index in range(namespaces)}, tuple(made))


def policies(count: int, pods: int, *, namespaces: int = 20, seed: int = SEED) -> list[Document]:
    """Mixed: Cilium's, clusterwide and Kubernetes' own; labels, namespaces, entities, CIDRs, ports by number, range and name; 30 % deny."""
    dice = random.Random(seed)  # noqa: S311 - the same cluster each time
    return [_policy(dice, index, max(1, pods // 5), namespaces) for index in range(count)]


def _policy(dice: random.Random, index: int, apps: int, namespaces: int) -> Document:
    kind = dice.choice(["CiliumNetworkPolicy"] * 6 + ["CiliumClusterwideNetworkPolicy"] + ["NetworkPolicy"] * 3)
    ingress = dice.random() < 0.7
    deny = dice.random() < 0.3
    subject = {"matchLabels": dice.choice([{"tier": dice.choice(["web", "api", "db"])}, {"app": f"app-{dice.randrange(apps)}"}])}
    metadata = {"name": f"p{index}", "namespace": f"ns-{dice.randrange(namespaces)}"}
    ports = dice.sample(["80", "443", "5432", "8080", "9090", "http", "metrics", "db"], dice.randint(1, 3))
    if kind == "NetworkPolicy" and not deny:
        peer = {"namespaceSelector": {"matchLabels": {"team": f"t{dice.randrange(5)}"}}}
        other = {"ipBlock": {"cidr": f"10.{dice.randrange(256)}.0.0/16"}}
        rule = {"from" if ingress else "to": [peer, other], "ports": [{"port": int(each) if each.isdigit() else each} for each in ports]}
        spec = {"podSelector": subject, "policyTypes": ["Ingress" if ingress else "Egress"], "ingress" if ingress else "egress": [rule]}
        return {"apiVersion": "networking.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
    if kind == "NetworkPolicy":
        kind = "CiliumNetworkPolicy"
    elif kind == "CiliumClusterwideNetworkPolicy":
        del metadata["namespace"]
    way = "from" if ingress else "to"
    octet = dice.randrange(256)
    rule = dice.choice([
        {f"{way}Endpoints": [{"matchLabels": {"tier": dice.choice(["web", "api", "db", "job"])}}]},
        {f"{way}Endpoints": [{"matchExpressions": [{"key": "k8s:io.kubernetes.pod.namespace", "operator": "Exists"}]}]},
        {f"{way}CIDRSet": [{"cidr": f"10.{octet}.0.0/16", "except": [f"10.{octet}.7.0/24"]}]},
        {f"{way}Entities": [dice.choice(["cluster", "world", "host"])]},
    ])
    items: list[Document] = [{"port": each, "protocol": "TCP"} for each in ports]
    if dice.random() < 0.3:
        items = [{"port": "8000", "endPort": 8999, "protocol": "TCP"}, {"port": "53", "protocol": "UDP"}]
    if dice.random() < 0.8:
        rule["toPorts"] = [{"ports": items}]
    key = ("ingress" if ingress else "egress") + ("Deny" if deny else "")
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": {"endpointSelector": subject, key: [rule]}}


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def reachability() -> Iterator[Row]:
    """From a cluster and parsed policies to every cell, one byte each."""
    for pods, target in ((250, 0.1), (500, 0.1), (1000, 0.1), (2000, 1.0), (5000, 6.0)):
        yield _in_process(f"reachability of {pods:,} pods, 10 ports, 100 policies", f"cells({pods})", target)
    yield _in_process("reachability of 10,000 pods, 1,000 policies, as classes", "classes()", 3.0)


def cells(pods: int) -> None:
    """In a process of its own, since its memory is measured too. Prints JSON."""
    state = cluster(pods)
    repository = Repository.empty().change(apply=policies(100, pods))
    _reject(repository)
    samples = [_seconds(partial(_matrix, state, repository)) for _ in range(5)]
    made = pods * pods * len(PORTS)
    note = f"{made / 1e6:.1f} M cells, {made / min(samples) / 1e6:.0f} M cells/s at best; {_peak():.0f} MiB"
    if pods == 1000:
        note += f"; {_sampled(state, repository)} cells equal the evaluator's"
    print(json.dumps({"samples": samples, "note": note}))


def _matrix(state: ClusterState, repository: Repository) -> Codes:
    return Reachability(Evaluator(state, repository), PORTS).matrix()


def _sampled(state: ClusterState, repository: Repository, count: int = 10_000) -> int:
    """Compare cells with the one-flow evaluator; RuntimeError if any differs."""
    evaluator = Evaluator(state, repository)
    matrix = Reachability(evaluator, PORTS).matrix()
    dice = random.Random(SEED)  # noqa: S311 - the same each time
    kinds = set()
    for _ in range(count):
        at, row, column = dice.randrange(len(PORTS)), dice.randrange(len(state.pods)), dice.randrange(len(state.pods))
        verdict = evaluator.verdict(Traffic(state.pods[row].ref, state.pods[column].ref, *PORTS[at])).verdict
        kinds.add(verdict)
        if (matrix[at, row, column] == Reach.ALLOW) != (verdict == "allow"):
            raise RuntimeError(f"{state.pods[row].ref} -> {state.pods[column].ref}:{PORTS[at]}: not {verdict}")
    if len(kinds) < 2:
        raise RuntimeError(f"every cell is {kinds}: nothing was compared")
    return count


def _reject(repository: Repository) -> None:
    if repository.errors:
        raise RuntimeError(f"policies of the benchmark are refused: {dict(repository.errors)}")


def classes() -> None:
    """In a process of its own, since its memory is measured too. Prints JSON."""
    state = cluster(10_000, shared=0.2, namespaces=100)
    documents = policies(1000, 10_000, namespaces=100)
    repository = Repository.empty().change(apply=documents)
    _reject(repository)
    started = time.perf_counter()
    found = Reachability(Evaluator(state, repository), PORTS)
    made = time.perf_counter() - started
    found.codes(range(100))
    seconds = time.perf_counter() - started
    note = f"{len(found.classes):,} classes in {made:.2f} s, then the rows of 100 of them; {_peak():.0f} MiB"
    print(json.dumps({"samples": [seconds], "note": note}))


def _peak() -> float:
    """The most memory that this process has used, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _in_process(name: str, call: str, target: float) -> Row:
    code = f"from benchmarks import policy; policy.{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    return median(name, answer["samples"], "s", target, answer["note"])


def parsing() -> Iterator[Row]:
    """A thousand documents to policies in force, indexed by whom they select."""
    documents = policies(1000, 1000)
    state = cluster(1000)
    samples = [_seconds(lambda: Evaluator(state, Repository.empty().change(apply=documents))) for _ in range(5)]
    yield median("1,000 policies parsed, validated, indexed", samples, "s", 1.0, "for 1,000 pods")


def stream() -> Iterator[Row]:
    """246 clusters of 9 pods, 119,151 flows, the process's start included."""
    dice = random.Random(SEED)  # noqa: S311 - the same each time
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scenarios.jsonl")
        flows = [119_151 // 246 + (index < 119_151 % 246) for index in range(246)]
        path.write_text("".join(json.dumps(_scenario(dice, index, count)) + "\n" for index, count in enumerate(flows)))
        samples = [_seconds(lambda: _harness("predict", "--scenarios", str(path))) for _ in range(3)]
    yield median("scenario stream: 246 clusters, 119,151 flows", samples, "s", 1.5, "with process start")


def _scenario(dice: random.Random, index: int, flows: int) -> Document:
    state = cluster(9, namespaces=3)
    pods = [
        {
            "namespace": each.ref.namespace,
            "name": each.ref.name,
            "labels": dict(each.labels),
            "ports": [{"port": port.port, "name": port.name} for port in each.ports],
        }
        for each in state.pods
    ]
    names = [f"{each.ref}" for each in state.pods] + ["world:10.3.0.1"]
    asked = [(dice.choice(names), dice.choice(names), *dice.choice(PORTS)) for _ in range(flows)]
    return {
        "id": f"s{index}",
        "namespaces": {name: dict(labels) for name, labels in state.namespaces.items()},
        "pods": pods,
        "policies": policies(8, 9, namespaces=3, seed=index),
        "flows": [{"src": source, "dst": target, "protocol": protocol, "port": port} for source, target, protocol, port in asked],
    }


def question() -> Iterator[Row]:
    """One question about manifests, the process's start included."""
    asked = "ns-0/a -> ns-0/b:8080"
    with tempfile.TemporaryDirectory() as folder:
        held, running = Path(folder, "policies.yaml"), Path(folder, "pods.yaml")
        held.write_text(yaml.safe_dump_all(policies(5, 9, namespaces=3)))
        running.write_text(yaml.safe_dump_all([_workload("a", "app-0", "web"), _workload("b", "app-1", "job")]))
        for words in (("predict", f"{held}", "-f", f"{running}", asked), ("explain", "-f", f"{held}", "-f", f"{running}", asked)):
            samples = [1000 * _seconds(partial(_harness, *words)) for _ in range(9)]
            yield median(f"one question to {words[0]}", samples, "ms", 200, "with process start")


def _workload(name: str, app: str, tier: str) -> Document:
    metadata = {"name": name, "namespace": "ns-0", "labels": {"app": app, "tier": tier}}
    containers = [{"name": "main", "ports": [{"containerPort": 8080}]}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}


def linting() -> Iterator[Row]:
    """A thousand policies in one file, without workloads: all of them are in force together. The process's start is included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "policies.yaml")
        path.write_text(yaml.safe_dump_all(policies(1000, 1000)))
        samples = [_seconds(lambda: _harness("lint", str(path), exits=1)) for _ in range(3)]
    yield median("lint of 1,000 policies", samples, "s", 2.0, "with process start")


def _harness(*words: str, exits: int = 0) -> None:
    """Run a command; RuntimeError if it does not exit as it should, since what refuses is fast."""
    done = subprocess.run([sys.executable, "-m", "harness", *words], stdout=subprocess.DEVNULL, check=False)
    if done.returncode != exits:
        raise RuntimeError(f"harness {words[0]} exited with {done.returncode}, not {exits}")


BENCHMARKS: dict[str, Callable[[], Iterator[Row]]] = {
    "reachability": reachability,
    "parsing": parsing,
    "stream": stream,
    "question": question,
    "linting": linting,
}
