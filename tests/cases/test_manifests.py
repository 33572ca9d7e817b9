from __future__ import annotations

from pathlib import Path

import pytest

from harness.cases.case import PolicyObject
from harness.cases.manifests import Manifests
from harness.errors import PolicyFileError
from harness.model.verdict import PolicyRef
from tests.cases.case_folder import Folder

POLICY = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: NAME}\nspec: {ingress: [{}]}\n"


def applied(folder: Folder, manifest: str, path: str = "p.yaml") -> tuple[PolicyObject, ...]:
    folder.write(path, manifest)
    return folder.phases(f"p:\n  apply: {path}\n  otherwise: deny\n").phases[0].apply


def test_a_manifest_of_several_documents(folder: Folder):
    policies = applied(folder, "---\n" + POLICY.replace("NAME", "one") + "---\n# empty\n---\n" + POLICY.replace("NAME", "two") + "---\n")
    assert [each.ref.name for each in policies] == ["one", "two"]
    assert [each.location.line for each in policies] == [4, 11]
    assert Path(policies[0].location.file).name == "p.yaml"


def test_lists_of_objects(folder: Folder):
    item = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: NAME}}"
    text = f"apiVersion: v1\nkind: List\nitems:\n  - {item.replace('NAME', 'one')}\n"
    text += f"  - {{kind: NetworkPolicyList, apiVersion: networking.k8s.io/v1, items: [{item.replace('NAME', 'two')}]}}\n"
    assert [str(each.ref) for each in applied(folder, text)] == ["NetworkPolicy/default/one", "NetworkPolicy/default/two"]


def test_json_is_yaml(folder: Folder):
    (policy,) = applied(
        folder,
        '{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p"},\n\t"spec": {"ingress": []}}',
        "p.json",
    )
    assert policy.document["spec"] == {"ingress": []}


def test_namespaces_are_filled_in_where_missing(folder: Folder):
    text = POLICY.replace("NAME", "own") + "---\n" + POLICY.replace("NAME", "other, namespace: dev")
    text += "---\n" + POLICY.replace("NAME", "wide").replace("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")
    own, other, wide = applied(folder, text)
    assert own.ref == PolicyRef("CiliumNetworkPolicy", "default", "own")
    assert own.document["metadata"] == {"name": "own", "namespace": "default"}
    assert other.document["metadata"] == {"name": "other", "namespace": "dev"}
    assert wide.ref == PolicyRef("CiliumClusterwideNetworkPolicy", "", "wide")
    assert wide.document["metadata"] == {"name": "wide"}


def test_rules_keep_the_types_that_kubectl_would_send(folder: Folder):
    text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\n"
    text += "spec: {endpointSelector: {matchLabels: {app: no, version: 1.10, 'port': '80'}}, ingress: , egress: [], ingressDeny: [{toPorts: [{ports: [{port: 80}]}]}]}\n"
    (policy,) = applied(folder, text)
    assert policy.document["spec"] == {
        "endpointSelector": {"matchLabels": {"app": False, "version": 1.1, "port": "80"}},
        "ingress": None,
        "egress": [],
        "ingressDeny": [{"toPorts": [{"ports": [{"port": 80}]}]}],
    }


def test_a_malformed_policy_is_the_clusters_to_refuse(folder: Folder):
    text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec: [nonsense, {toPorts: 7}]\nspecs: 4\n"
    (policy,) = applied(folder, text)
    assert policy.document["spec"] == ["nonsense", {"toPorts": 7}]


def test_an_empty_manifest_is_refused(folder: Folder):
    folder.write("p.yaml", "# nothing\n")
    mistake = folder.mistake_in_phases("p:\n  apply: p.yaml\n  otherwise: deny\n")
    assert mistake.message.startswith("there is no object in ")
    assert isinstance(mistake.error, PolicyFileError)


def test_a_list_without_items_is_refused(folder: Folder):
    folder.write("p.yaml", "apiVersion: v1\nkind: List\n")
    assert folder.mistake_in_phases("p:\n  apply: p.yaml\n  otherwise: deny\n").message == "a List needs `items`, a list of objects"


def test_a_manifest_is_read_once_for_all_cases(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    read: list[Path] = []
    original = Path.read_text

    def counting(self: Path, *args: object, **kwargs: object) -> str:
        read.append(self)
        return original(self, *args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Path, "read_text", counting)
    folder.write("p.yaml", POLICY)
    text = "case: x\nendpoints: {a: {}, b: {ports: [80]}}\nphases:\n  p: {apply: p.yaml, otherwise: deny}\n  q: {apply: ./p.yaml, otherwise: deny}\n"
    from harness.cases.load import load_cases

    manifests = Manifests()
    for name in ("test_one.yaml", "test_two.yaml"):
        load_cases(folder.write(name, text), manifests=manifests)
    assert [each.name for each in read].count("p.yaml") == 1


def test_paths_are_relative_to_the_case_file(folder: Folder):
    folder.write("fixtures/p.yaml", POLICY)
    from harness.cases.load import load_cases

    path = folder.write(
        "suites/deep/test_x.yaml",
        "case: x\nendpoints: {a: {}, b: {ports: [80]}}\nphases: {p: {apply: ../../fixtures/p.yaml, otherwise: deny}}\n",
    )
    (case,) = load_cases(path)
    assert case.phases[0].apply[0].location.file.endswith("fixtures/p.yaml")
    assert ".." not in case.phases[0].apply[0].location.file
