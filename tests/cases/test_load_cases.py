from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.cases.load import find_case_files, load_cases
from harness.cases.names import BUILTINS
from harness.errors import CaseError, HarnessError
from tests.cases.case_folder import Folder

SUITES = Path(__file__).parents[2] / "suites"
DEFAULT_DENY = (
    "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: default-deny}\nspec: {endpointSelector: {}, ingress: [{}]}\n"
)
EXAMPLE = """\
# yaml-language-server: $schema=../../harness/cases/schema.json
case: only the frontend reaches the backend        # unique in its file; becomes the pytest node
description: optional prose
tags: [zero-trust, l4]                              # pytest marks, so -m works
requires: {cilium: ">=1.16", features: [l7-http]}   # added to what is derived from the content

namespace: shop
namespaces: {shop: {env: prod}, dev: {env: dev}}    # labels, only where they matter

endpoints:                                          # client and server pods
  frontend: {labels: {app: frontend}}
  intruder: {namespace: dev, labels: {app: frontend}}
  backend:
    labels: {app: backend}
    serviceAccount: backend
    replicas: 2
    node: b
    ports: [8080, {port: 9000, name: grpc, serve: grpc}, {port: 5353, protocol: UDP}, {port: 443, serve: tls}]
  node-agent: {hostNetwork: true, node: b, ports: [9100]}

services:
  backend: {selector: {app: backend}, ports: [{port: 80, targetPort: 8080}]}

externals:
  stripe: {names: [api.stripe.com], ports: [443]}
  internet: {addresses: [203.0.113.10, "2001:db8:113::10"], ports: [443]}

phases:
  baseline:
    - allow: frontend, intruder -> backend:8080     # a phase that is a list has only expectations
  deny:
    apply: ../../fixtures/manifests/default-deny.yaml
    expect:
      - deny: frontend, intruder -> backend:8080
        reason: default-deny
        at: ingress
  allow:
    requires: {cilium: ">=1.18"}
    remove: [default-deny]
    policies:
      - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: backend}, spec: {ingress: [{toPorts: [{rules: {http: [{}]}}]}]}}
    expect:
      - allow: frontend -> backend:8080 GET /api/v1/users
        by: backend
      - deny: frontend -> backend:8080 GET /admin
        status: 403
    otherwise: deny
"""


def test_the_example_of_the_format(folder: Folder):
    folder.write("fixtures/manifests/default-deny.yaml", DEFAULT_DENY)
    (case,) = load_cases(folder.write("suites/x/test_example.yaml", EXAMPLE))
    assert [phase.name for phase in case.phases] == ["baseline", "deny", "allow"]
    assert [phase.baseline for phase in case.phases] == [True, False, False]
    assert case.tags == ("zero-trust", "l4")
    assert [str(pod) for pod in case.endpoints["backend"].pods()] == ["shop/backend-0", "shop/backend-1"]
    assert case.requires.features == {"l7-http", "nodes-2", "host-endpoints", "externals", "services"}
    assert [each.text for each in case.phases[2].expectations] == [
        "frontend -> backend:8080 GET /api/v1/users",
        "frontend -> backend:8080 GET /admin",
        "intruder -> backend:8080",
        "frontend, intruder -> backend:9000",
        "frontend, intruder -> backend:5353/UDP",
        "frontend, intruder -> backend:443",
        "frontend, intruder, backend -> node-agent:9100",
        "frontend, intruder, backend -> stripe:443",
        "frontend, intruder, backend -> internet:443",
    ]


SNIPPETS = st.sampled_from(
    ("*", "&", "!x", "|", ">", "{", "}", "[", "]", ":", ": ", " #", ", ", "\n", "\t", '"', "'", "- ", "->", "~", "no", "1.10", "<<: ", "x: 1",
     "é", "\u2028", "/", "0", "-1", "[]", "{}", "any", "\r\n", "---\n", "%", "@")
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(EXAMPLE)), st.integers(0, 12), SNIPPETS), min_size=1, max_size=3))
def test_a_broken_file_loads_or_is_refused_at_a_place_in_it(folder: Folder, edits: list[tuple[int, int, str]]):
    folder.write("fixtures/manifests/default-deny.yaml", DEFAULT_DENY)
    text = EXAMPLE
    for start, length, snippet in edits:
        text = text[:start] + snippet + text[start + length :]
    path = folder.path / "suites/x/test_example.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    error = refused(path)
    if error is not None:
        assert error.location is not None
        assert 1 <= error.location.line <= text.count("\n") + text.count("\u2028") + text.count("\r") + 2
        assert error.message


def refused(path: Path) -> HarnessError | None:
    try:
        load_cases(path)
    except HarnessError as error:
        return error
    return None


def test_every_shipped_case_loads():
    files = list(find_case_files(SUITES))
    assert len([case for file in files for case in load_cases(file)]) >= 25


def test_case_files_are_found_below_a_folder_in_order(folder: Folder):
    for name in ("b/test_z.yaml", "test_a.yaml", "b/c/test_y.yaml", "b/other.yaml", "b/test_x.yml", "b/test_code.py"):
        folder.write(name, "")
    found = [str(each.relative_to(folder.path)) for each in find_case_files(folder.path)]
    assert found == ["b/c/test_y.yaml", "b/test_x.yml", "b/test_z.yaml", "test_a.yaml"]


def test_a_file_that_is_named_is_a_case_file(folder: Folder):
    file = folder.write("mine.yaml", "")
    assert list(find_case_files(file)) == [file]


def test_a_file_that_is_not_there(folder: Folder):
    with pytest.raises(CaseError, match="cannot be read: No such file or directory"):
        load_cases(folder.path / "test_gone.yaml")


def test_files_are_named_as_seen_from_the_working_directory(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    file = folder.write("suites/test_x.yaml", "case: x\nendpoints: {a: {}, b: {ports: [80]}}\nphases: {p: [{allow: 'a -> b:80'}]}\n")
    monkeypatch.chdir(folder.path)
    assert load_cases(file)[0].location.file == "suites/test_x.yaml"
    monkeypatch.chdir(folder.path / "suites")
    assert load_cases(file)[0].location.file == "test_x.yaml"


def test_built_ins_are_those_of_the_format():
    assert BUILTINS == ("world", "host", "remote-node", "kube-apiserver", "kube-dns")
