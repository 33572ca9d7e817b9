"""The account of a failed phase, and the advice in it: what a newcomer needs to fix the usual mistakes."""

from __future__ import annotations

import pytest

from harness.reports.account import Account

POLICY = "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}"
ADMIT = "{endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: '8080', protocol: TCP}]}]}]}"
KNP = (
    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: knp}, spec: {podSelector: {matchLabels: {app: backend}}, "
    "policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}]}]}}"
)


def phase(spec: str, expectation: str, *, name: str = "p") -> str:
    text = spec if spec.startswith("{apiVersion") else POLICY.format(name=name, spec=spec)
    return f"change:\n  policies:\n    - {text}\n  expect:\n    - {expectation}\n"


@pytest.mark.parametrize(
    ("spec", "expectation", "advice"),
    [
        pytest.param(
            ADMIT.replace("app: client", "app: cleint"),
            "allow: client -> backend:8080",
            "default deny at ingress of backend; the nearest rule is CiliumNetworkPolicy/shop/p ingress[0]: it asks for app=cleint, and client has app=client, tier=web",
            id="typo in the peer",
        ),
        pytest.param(
            ADMIT.replace("protocol: TCP", "protocol: UDP"),
            "allow: client -> backend:8080",
            "default deny at ingress of backend; the nearest rule is CiliumNetworkPolicy/shop/p ingress[0]: it admits client, but on 8080/UDP, not 8080/TCP",
            id="wrong protocol",
        ),
        pytest.param(
            ADMIT,
            "allow: client -> backend:9000",
            "default deny at ingress of backend; the nearest rule is CiliumNetworkPolicy/shop/p ingress[0]: it admits client, but on 8080/TCP, not 9000/TCP",
            id="wrong port",
        ),
        pytest.param(
            ADMIT,
            "allow: stranger -> backend:8080",
            "default deny at ingress of backend; the nearest rule is CiliumNetworkPolicy/shop/p ingress[0]: without a namespace it means its own (shop), "
            "and stranger is in dev; add `io.kubernetes.pod.namespace: dev`",
            id="another namespace",
        ),
        pytest.param(
            KNP,
            "allow: stranger -> backend:8080",
            "default deny at ingress of backend; the nearest rule is NetworkPolicy/shop/knp ingress[0]: without a namespace it means its own (shop), "
            "and stranger is in dev; add `namespaceSelector` matching dev",
            id="another namespace, in Kubernetes' own policy",
        ),
        pytest.param(
            "{endpointSelector: {matchLabels: {app: backend}}, ingress: [{}], egress: [{toEndpoints: [{matchLabels: {app: client}}]}]}",
            "allow: client -> backend:8080",
            "default deny at ingress of backend: CiliumNetworkPolicy/shop/p egress[0] is about whom backend may reach: "
            "what it names belongs under `ingress`, as `from...`",
            id="under the other direction",
        ),
        pytest.param(
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p}, specs: ["
            "{endpointSelector: {matchLabels: {app: backend}}, ingress: [{}]}, "
            "{endpointSelector: {matchLabels: {app: client}}, ingress: [{fromEndpoints: [{matchLabels: {app: backend}}]}]}]}",
            "allow: client -> backend:8080",
            "default deny at ingress of backend: CiliumNetworkPolicy/shop/p specs[1].ingress[0] is about whom client may be reached by: "
            "select backend and name client in `ingress`",
            id="the other way round",
        ),
        pytest.param(
            "{endpointSelector: {}, ingress: [{}]}",
            "allow: client -> backend:8080",
            "default deny at ingress of backend: no rule admits client on 8080/TCP",
            id="nothing comes near",
        ),
        pytest.param(
            "{endpointSelector: {matchLabels: {app: client}}, egress: [{toEndpoints: [{matchLabels: {app: bakend}}]}]}",
            "allow: client -> backend:8080",
            "default deny at egress of client; the nearest rule is CiliumNetworkPolicy/shop/p egress[0]: it asks for app=bakend, and backend has app=backend",
            id="egress",
        ),
        pytest.param(
            "{endpointSelector: {matchLabels: {app: backend}}, ingress: [{}], ingressDeny: [{fromEndpoints: [{}]}]}",
            "allow: client -> backend:8080",
            "a deny rule wins over every allow: narrow it, or state `deny:`",
            id="deny rule",
        ),
        pytest.param(
            "{endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromEndpoints: [{}]}]}",
            "deny: client -> backend:8080",
            "CiliumNetworkPolicy/shop/p ingress[0] admits it: `{}` selects everything in the policy's own namespace; narrow that rule, or state `allow:`",
            id="too wide an allow",
        ),
        pytest.param(
            "{endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]}",
            "deny: client -> backend:9000",
            "CiliumNetworkPolicy/shop/p ingress[0] admits it: it names no port, so every port; narrow that rule, or state `allow:`",
            id="no port",
        ),
        pytest.param(
            "{endpointSelector: {matchLabels: {app: client}}, ingress: [{}]}",
            "deny: client -> backend:8080",
            "nothing is enforced: no policy in force restricts ingress of backend or egress of client",
            id="nothing enforced there",
        ),
        pytest.param(
            "{endpointSelector: {}, egress: [{}]}",
            "{deny: client -> backend:8080, at: ingress}",
            "it never gets to the ingress side: a policy of the other side drops it first; state `at: egress` or allow it there",
            id="the other side",
        ),
        pytest.param(
            ADMIT.replace("ingress:", "enableDefaultDeny: {ingress: false}, ingress:"),
            "deny: stranger -> backend:8080",
            "CiliumNetworkPolicy/shop/p says `enableDefaultDeny: {ingress: false}`, so what no rule denies is allowed; remove that, or state `allow:`",
            id="no default deny",
        ),
    ],
)
def test_the_likely_fix_is_one_sentence(spec, expectation, advice, ran):
    found = ran('baseline: [{allow: "client, stranger -> backend:8080, backend:9000"}]\n' + phase(spec, expectation))
    assert found.likely("change") == [advice]


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        pytest.param(
            ADMIT.replace("app: backend", "app: bakend"),
            "selects app=bakend; did you mean app=backend (backend)?",
            id="typo in the selector",
        ),
        pytest.param(
            "{endpointSelector: {matchLabels: {app: backend}}, ingress: []}",
            "`ingress: []` enforces nothing; to deny all, write `ingress: [{}]`",
            id="empty list",
        ),
    ],
)
def test_a_policy_that_does_nothing_is_answered_with_what_was_meant(spec, advice, ran):
    found = ran('baseline: [{allow: "client -> backend:8080"}]\n' + phase(spec, "allow: client -> backend:8080"))
    assert found.likely("change")[0] == advice


NAMED = """
case: by name
endpoints:
  checkout: {labels: {app: checkout}}
externals:
  stripe: {names: [api.stripe.com], ports: [443]}
phases:
  baseline:
    - allow: checkout -> api.stripe.com:443
  named:
    policies:
      - apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {name: named}
        spec:
          endpointSelector: {matchLabels: {app: checkout}}
          egress:
            - toFQDNs: [{matchName: api.stripe.com}]
            - DNS
    expect:
      - allow: checkout -> api.stripe.com:443
"""
TO_DNS = "{toEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}}], toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchName: other.example}]}}]}"


@pytest.mark.parametrize(
    ("dns", "advice"),
    [
        ("toEntities: [host]", "egress of checkout is restricted and nothing lets its lookups out: allow port 53 of kube-dns"),
        (TO_DNS, "no DNS rule lets checkout ask for api.stripe.com: add it to `rules: {dns: [...]}` of the rule for port 53"),
    ],
    ids=["no rule for DNS", "no DNS rule for the name"],
)
def test_a_name_that_may_not_be_looked_up_is_told_as_such(dns, advice, ran):
    (likely,) = ran(NAMED.replace("DNS", dns), whole=True).likely("named")
    assert advice in likely


def test_a_policy_in_the_wrong_namespace_is_told_where_its_endpoints_are(ran):
    policy = POLICY.format(name="p", spec=ADMIT).replace("{name: p}", "{name: p, namespace: dev}")
    found = ran("baseline: [{allow: 'client -> backend:8080'}]\n" + phase(policy, "allow: client -> backend:8080"))
    assert found.likely("change")[0] == "a namespaced policy selects in its own namespace only (dev); backend is in shop"


def test_the_account_shows_the_line_with_a_caret_and_all_evidence(ran):
    found = ran(
        'baseline: [{allow: "client -> backend:8080"}]\n' + phase("{endpointSelector: {}, ingress: [{}]}", "allow: client -> backend:8080")
    )
    lines = str(found.account("change")).splitlines()
    assert lines[0] == "simulated: no packet was sent; flows and answers are the policy model's own"
    at = lines.index("          - allow: client -> backend:8080")
    assert lines[at - 1].startswith("test_case.yaml:13:")
    assert lines[at + 1].strip() == "^" * len("client -> backend:8080")
    assert lines[at + 1].index("^") == lines[at].index("client")
    heads = [line[4:14].strip() for line in lines[at + 3 :] if line.startswith("    ")]
    assert [head for head in heads if head] == ["sent", "came back", "flows", "model", "likely"]
    assert lines[-1] == "again: pytest change"


def test_of_many_equal_failures_the_first_are_told_and_the_others_named(ran):
    text = """
        case: many
        endpoints:
          client: {labels: {app: client}, replicas: 5}
          backend: {labels: {app: backend}, ports: [8080]}
        phases:
          baseline: [{deny: \"client -> backend:8080\"}]
    """
    account = str(ran(text.replace("\n        ", "\n"), whole=True).account("baseline"))
    assert account.count("\nfailed deny: client[") == 3
    assert "and 2 more of this expectation: client[3] -> backend:8080/TCP, client[4] -> backend:8080/TCP" in account


def test_the_summary_names_the_worst_and_counts_the_rest(ran):
    found = ran('baseline: [{deny: "client, stranger -> backend:8080"}]\n')
    assert found.account("baseline").summary == "deny: client -> backend:8080/TCP: answered by shop/backend: nothing denied it (and 1 more)"


def test_a_closed_world_expectation_says_that_otherwise_made_it(ran):
    text = 'baseline:\n  expect: [{allow: "client -> backend:8080"}]\n  otherwise: deny\n'
    assert "  from `otherwise: deny`: " in str(ran(text).account("baseline"))


def test_unproven_denies_are_told_in_the_account(ran):
    found = ran(phase("{endpointSelector: {}, ingress: [{}]}", "{deny: client -> backend:8080, at: egress}"))
    assert "    unproven  this connection was never seen to work in this case" in str(found.account("change"))


def test_an_account_survives_the_way_to_the_controller(ran):
    account = ran('baseline: [{deny: "client -> backend:8080"}]\n').account("baseline")
    assert Account.load(account.dump()) == account
