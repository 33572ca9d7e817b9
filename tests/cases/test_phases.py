from __future__ import annotations

import pytest

from harness.cases.case import Case
from harness.errors import CaseError, PolicyFileError
from harness.model.cluster import CIDRGroup
from harness.model.verdict import PolicyRef
from tests.cases.case_folder import Folder

CNP = "CiliumNetworkPolicy"


def policy(name: str, kind: str = CNP, *, namespace: str = "", spec: str = "{}") -> str:
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "cilium.io/v2"
    metadata = f"{{name: {name}, namespace: {namespace}}}" if namespace else f"{{name: {name}}}"
    return f"{{apiVersion: {version}, kind: {kind}, metadata: {metadata}, spec: {spec}}}"


def names(refs: object) -> list[str]:
    return [str(getattr(each, "ref", each)) for each in refs]  # type: ignore[attr-defined]


def test_state_is_cumulative(folder: Folder):
    case = folder.phases(
        f"""\
        baseline:
          - allow: client -> server:8080
        one:
          policies: [{policy("a")}, {policy("b")}]
          otherwise: deny
        two:
          remove: [a]
          policies: [{policy("c")}]
          otherwise: deny
        three:
          - allow: client -> server:8080
        """
    )
    assert [names(phase.policies) for phase in case.phases] == [
        [], [f"{CNP}/default/a", f"{CNP}/default/b"], [f"{CNP}/default/b", f"{CNP}/default/c"], [f"{CNP}/default/b", f"{CNP}/default/c"],
    ]  # fmt: skip
    assert [names(phase.apply) for phase in case.phases] == [
        [], [f"{CNP}/default/a", f"{CNP}/default/b"], [f"{CNP}/default/c"], [],
    ]  # fmt: skip
    assert names(case.phases[2].remove) == [f"{CNP}/default/a"]


@pytest.mark.parametrize(
    ("phases", "baseline"),
    [
        ("before:\n  - allow: client -> server:8080\nafter:\n  - allow: client -> server:8080\n", [True, False]),
        (f"baseline:\n  policies: [{policy('a')}]\n  otherwise: deny\n", [False]),
    ],
)
def test_the_baseline_comes_first_and_applies_no_policy_whatever_its_name(folder: Folder, phases: str, baseline: list[bool]):
    assert [phase.baseline for phase in folder.phases(phases).phases] == baseline


def test_the_same_kind_namespace_and_name_replaces(folder: Folder):
    case = folder.phases(
        f"""\
        one:
          policies: [{policy("a", spec="{ingress: []}")}, {policy("a", "NetworkPolicy")}, {policy("a", namespace="dev")}]
          otherwise: deny
        two:
          policies: [{policy("a", spec="{egress: []}")}]
          otherwise: deny
        """
    )
    in_force = {str(each.ref): each.document["spec"] for each in case.phases[1].policies}
    assert in_force == {f"{CNP}/default/a": {"egress": []}, "NetworkPolicy/default/a": {}, f"{CNP}/dev/a": {}}


def test_remove_comes_before_apply(folder: Folder):
    case = folder.phases(
        f"""\
        one:
          policies: [{policy("a", spec="{ingress: []}")}]
          otherwise: deny
        two:
          remove: [a]
          policies: [{policy("a")}]
          otherwise: deny
        """
    )
    assert [each.document["spec"] for each in case.phases[1].policies] == [{}]
    assert names(case.phases[1].remove) == [f"{CNP}/default/a"]


def test_manifests_come_before_inline_policies(folder: Folder):
    folder.write("p.yaml", f"{policy('x')}\n---\n{policy('z')}\n")
    case = folder.phases(f"one:\n  policies: [{policy('a')}]\n  apply: [p.yaml]\n  otherwise: deny\n")
    assert [each.ref.name for each in case.phases[0].apply] == ["x", "z", "a"]


@pytest.mark.parametrize(
    ("written", "ref"),
    [
        ("b", PolicyRef(CNP, "default", "b")),
        ("dev/a", PolicyRef(CNP, "dev", "a")),
        ("NetworkPolicy/a", PolicyRef("NetworkPolicy", "default", "a")),
        ("CiliumNetworkPolicy/default/a", PolicyRef(CNP, "default", "a")),
        ("CiliumClusterwideNetworkPolicy/a", PolicyRef("CiliumClusterwideNetworkPolicy", "", "a")),
        ("CiliumClusterwideNetworkPolicy//a", PolicyRef("CiliumClusterwideNetworkPolicy", "", "a")),
    ],
)
def test_policies_are_named_by_as_much_as_tells_them_apart(folder: Folder, written: str, ref: PolicyRef):
    policies = [
        policy("a"),
        policy("a", namespace="dev"),
        policy("a", "NetworkPolicy"),
        policy("a", "CiliumClusterwideNetworkPolicy"),
        policy("b"),
    ]
    case = folder.phases(
        f"""\
        one:
          policies: [{", ".join(policies)}]
          expect: [{{allow: client -> server:8080, by: "{written}"}}]
          inert: ["{written}"]
        two:
          rejected: [{{policy: "{written}", message: because}}]
        three:
          remove: ["{written}"]
          otherwise: allow
        """
    )
    one, two, three = case.phases
    assert one.expectations[0].by == ref
    assert one.inert == (ref,)
    assert [(each.ref, each.message) for each in two.rejected] == [(ref, "because")]
    assert three.remove == (ref,)
    assert ref not in {each.ref for each in three.policies}


def test_an_ambiguous_name_is_an_error_everywhere(folder: Folder):
    both = f"{policy('a')}, {policy('a', 'NetworkPolicy')}"
    for field in ("inert: [a]", "rejected: [a]", "expect: [{allow: client -> server:8080, by: a}]"):
        mistake = folder.mistake_in_phases(f"one:\n  policies: [{both}]\n  {field}\n")
        assert mistake.message == "`a` could be 2 policies"
        assert mistake.hint == "write one of `CiliumNetworkPolicy/a`, `NetworkPolicy/a`"


def test_namespaces_are_all_that_the_case_uses(folder: Folder):
    case = folder.case(
        f"""\
        case: x
        namespace: shop
        namespaces: {{shop: {{env: no}}, spare: }}
        endpoints: {{a: {{}}, b: {{namespace: dev, ports: [80]}}}}
        phases:
          one:
            policies: [{policy("p", namespace="infra")}, {policy("q", "CiliumClusterwideNetworkPolicy")}]
            otherwise: deny
        """
    )
    assert {name: dict(labels) for name, labels in case.namespaces.items()} == {
        "shop": {"kubernetes.io/metadata.name": "shop", "env": "no"},
        "spare": {"kubernetes.io/metadata.name": "spare"},
        "dev": {"kubernetes.io/metadata.name": "dev"},
        "infra": {"kubernetes.io/metadata.name": "infra"},
    }


def test_label_values_are_text_as_written(folder: Folder):
    case = folder.case(
        "case: 1.10\nendpoints: {a: {labels: {a: no, b: 1.10, c: on, d: 0x1F, e: 2001-01-01, f: '', g: }}}\nphases: {p: [{allow: 'world -> a icmp'}]}\n"
    )  # fmt: skip
    assert case.name == "1.10"
    assert case.endpoints["a"].labels == {"a": "no", "b": "1.10", "c": "on", "d": "0x1F", "e": "2001-01-01", "f": "", "g": ""}


def test_nothing_of_the_file_is_kept_in_a_case(folder: Folder):
    """Values are plain: a case can be pickled, printed and compared without the YAML it came from."""
    case = folder.phases(f"one:\n  policies: [{policy('a', spec='{ingress: [{fromEntities: [all]}]}')}]\n  otherwise: deny\n")
    found: list[type] = []

    def walk(value: object) -> None:
        if isinstance(value, str | dict | list):
            found.append(type(value))
        if isinstance(value, dict):
            for key, each in value.items():
                walk(key)
                walk(each)
        elif isinstance(value, list | tuple | frozenset):
            for each in value:
                walk(each)
        elif hasattr(type(value), "__dataclass_fields__"):
            for name in type(value).__dataclass_fields__:
                walk(getattr(value, name))

    walk(case)
    assert {each for each in found if each.__module__.startswith("harness.cases.document")} == set()


GROUP = "{apiVersion: cilium.io/v2, kind: CiliumCIDRGroup, metadata: {name: offices, labels: {team: net}}, spec: {externalCIDRs: [203.0.113.0/24]}}"
REFERS = "{egress: [{toCIDRSet: [{cidrGroupRef: offices}]}]}"


def groups(folder: Folder, one: str, two: str) -> Case:
    return folder.phases(f"one:\n  policies: [{one}]\n  otherwise: deny\ntwo:\n  policies: [{two}]\n  otherwise: deny\n")


def test_cidr_groups_are_carried_by_the_case(folder: Folder):
    case = groups(folder, GROUP, f"{policy('p', spec=REFERS)}, {GROUP}")
    assert case.cidr_groups == (CIDRGroup("offices", ("203.0.113.0/24",), {"team": "net"}),)
    assert [names(phase.policies) for phase in case.phases] == [[], [f"{CNP}/default/p"]]
    assert case.phases[0].baseline


def test_a_cidr_group_that_an_earlier_phase_lacked_is_refused(folder: Folder):
    with pytest.raises(PolicyFileError, match="earlier phase `one` refers to CiliumCIDRGroup offices"):
        groups(folder, policy("p", spec=REFERS), GROUP)


def test_a_cidr_group_that_changes_is_refused(folder: Folder):
    with pytest.raises(PolicyFileError, match="offices has other contents in an earlier phase"):
        groups(folder, GROUP, GROUP.replace("203.0.113.0/24", "198.51.100.0/24"))


@pytest.mark.parametrize("spec", ["{}", "{externalCIDRs: [everywhere]}", "{externalCIDRs: [1]}"])
def test_a_malformed_cidr_group_is_refused(folder: Folder, spec: str):
    with pytest.raises(PolicyFileError):
        groups(folder, GROUP.replace("{externalCIDRs: [203.0.113.0/24]}", spec), policy("p"))


def test_several_cases_in_one_file(folder: Folder):
    text = "case: {}\nendpoints: {{a: {{}}, b: {{ports: [80]}}}}\nphases: {{p: [{{allow: 'a -> b:80'}}]}}\n---\n"
    assert [case.name for case in folder.cases("---\n" + text.format("one") + text.format("two"))] == ["one", "two"]


def test_contradictions_are_seen_by_family(folder: Folder):
    text = "p:\n  - {{allow: client -> server:8080, family: ipv4}}\n  - {{deny: client -> server:8080, family: {}}}\n"
    assert len(folder.phases(text.format("ipv6")).phases[0].expectations) == 2
    with pytest.raises(CaseError, match="cannot be both"):
        folder.phases(text.format("both"))
