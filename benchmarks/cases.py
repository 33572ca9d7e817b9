"""The cases that are measured, made as text and read as any other."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from harness.cases.case import Case
from harness.cases.load import load_cases

_DENY = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "default-deny"},
    "spec": {"endpointSelector": {}, "ingress": [{}]},
}


def three_phases() -> Case:
    """The walk that every policy takes: 3 endpoints, 3 phases, 6 checks."""
    allow = {
        **_DENY,
        "metadata": {"name": "allow"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "backend"}},
            "ingress": [
                {
                    "fromEndpoints": [{"matchLabels": {"app": "client"}}],
                    "toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}]}],
                }
            ],
        },
    }
    return _load({
        "case": "walk",
        "endpoints": {
            "client": {"labels": {"app": "client"}},
            "intruder": {"labels": {"app": "intruder"}},
            "backend": {"labels": {"app": "backend"}, "ports": [8080]},
        },
        "phases": {
            "baseline": [{"allow": "client, intruder -> backend:8080"}],
            "deny": {"policies": [_DENY], "expect": [{"deny": "client, intruder -> backend:8080", "reason": "default-deny"}]},
            "allow": {
                "policies": [allow],
                "expect": [
                    {"allow": "client -> backend:8080", "by": "allow"},
                    {"deny": "intruder -> backend:8080", "reason": "default-deny", "at": "ingress"},
                ],
            },
        },
    })


def http_rules() -> Case:
    """A walk in which a proxy has the last word: 2 endpoints, 3 phases, 6 checks."""
    element = {
        "fromEndpoints": [{"matchLabels": {"app": "client"}}],
        "toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}], "rules": {"http": [{"method": "GET", "path": "/public"}]}}],
    }
    policy = {
        **_DENY,
        "metadata": {"name": "http"},
        "spec": {"endpointSelector": {"matchLabels": {"app": "backend"}}, "ingress": [element]},
    }
    return _load({
        "case": "http",
        "endpoints": {
            "client": {"labels": {"app": "client"}, "node": "a"},
            "backend": {"labels": {"app": "backend"}, "node": "b", "ports": [8080]},
        },
        "phases": {
            "baseline": [{"allow": "client -> backend:8080 GET /public"}, {"allow": "client -> backend:8080 GET /private"}],
            "deny": {"policies": [_DENY], "expect": [{"deny": "client -> backend:8080", "reason": "default-deny"}]},
            "http": {
                "policies": [policy],
                "expect": [
                    {"allow": "client -> backend:8080 GET /public", "by": "http"},
                    {"deny": "client -> backend:8080 GET /private", "reason": "l7", "at": "ingress", "status": 403},
                    {"deny": "client -> backend:8080 POST /public", "reason": "l7", "at": "ingress", "status": 403},
                ],
            },
        },
    })


def dns_rules() -> Case:
    """A name that may be asked for, and the address that it opens: 1 endpoint, 2 phases."""
    resolver = {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "kube-system", "k8s:k8s-app": "kube-dns"}}
    name = {"matchName": "www.example.com"}
    ports = {"ports": [{"port": "53", "protocol": "ANY"}], "rules": {"dns": [name]}}
    policy = {
        **_DENY,
        "metadata": {"name": "names"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "client"}},
            "egress": [{"toEndpoints": [resolver], "toPorts": [ports]}, {"toFQDNs": [name]}],
        },
    }
    return _load({
        "case": "names",
        "endpoints": {"client": {"labels": {"app": "client"}, "node": "b"}},
        "externals": {"www": {"names": ["www.example.com"], "ports": [443]}},
        "phases": {
            "baseline": [{"allow": "client -> www.example.com:443"}],
            "names": {"policies": [policy], "expect": [{"allow": "client -> kube-dns lookup www.example.com", "by": "names"}]},
        },
    })


def denied(sources: int) -> Case:
    """`sources` clients, none of which reaches the one backend."""
    return _load({
        "case": "denied",
        "endpoints": {
            **{f"client-{index}": {"labels": {"app": "client"}} for index in range(sources)},
            "backend": {"labels": {"app": "backend"}, "ports": [8080]},
        },
        "phases": {
            "baseline": [{"allow": "any -> backend:8080"}],
            "deny": {"policies": [_DENY], "expect": [{"deny": "any -> backend:8080", "reason": "default-deny"}]},
        },
    })


def mesh(pods: int) -> Case:
    """Every pod to every other, under a policy that lets half of the sources in."""
    policy = {
        **_DENY,
        "metadata": {"name": "even-only"},
        "spec": {"endpointSelector": {}, "ingress": [{"fromEndpoints": [{"matchLabels": {"parity": "even"}}]}]},
    }
    names = [f"pod-{index}" for index in range(pods)]

    def others(name: str, start: int) -> str:
        return ", ".join(each for each in names[start::2] if each != name)

    return _load({
        "case": "mesh",
        "endpoints": {
            name: {"labels": {"app": name, "parity": "odd" if index % 2 else "even"}, "ports": [8080]} for index, name in enumerate(names)
        },
        "phases": {
            "policy": {
                "policies": [policy],
                "expect": [
                    expectation
                    for name in names
                    for expectation in (
                        {"allow": f"{others(name, 0)} -> {name}:8080"},
                        {"deny": f"{others(name, 1)} -> {name}:8080", "reason": "default-deny"},
                    )
                ],
            },
        },
    })


def _load(document: dict[str, object]) -> Case:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test_bench.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False, width=10_000))
        return load_cases(path)[0]
