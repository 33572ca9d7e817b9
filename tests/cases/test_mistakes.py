"""Every mistake in a case file is found at collection, and the error points at it and says what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.cases.document import LibyamlLoader, PurePythonLoader, parse_documents
from harness.cases.raw import RESERVED
from harness.cases.source import Source
from harness.errors import CaseError, HarnessError, PolicyFileError
from tests.cases.case_folder import Folder, Mistake

Expect = Callable[[str], Mistake]

DENY_ALL = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: deny-all}, spec: {endpointSelector: {}, ingress: [{}]}}"


def shown(mistake: Mistake) -> tuple[str, int, str, str]:
    return mistake.message, mistake.line, mistake.caret, mistake.hint


# Unknown words


def test_an_unknown_key_of_a_case(folder: Folder):
    mistake = folder.mistake("case: web\nendpoint: {}\nphases: {}\n")
    assert shown(mistake) == ("unknown key `endpoint` in a case", 2, "endpoint", "did you mean `endpoints`?")
    assert isinstance(mistake.error, CaseError)


def test_an_unknown_key_of_an_endpoint(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints:\n  client:\n    lables: {app: client}\nphases: {}\n")
    assert shown(mistake) == ("unknown key `lables` in an endpoint", 4, "lables", "did you mean `labels`?")


def test_an_unknown_key_lists_the_keys_where_none_is_near(folder: Folder):
    mistake = folder.mistake("case: web\nservices:\n  s: {xyz: 1}\nphases: {}\n")
    assert shown(mistake) == ("unknown key `xyz` in a service", 3, "xyz", "keys: selector, ports, namespace, type, headless")


def test_an_unknown_key_of_a_phase(folder: Folder):
    mistake = folder.mistake_in_phases("  baseline:\n    expects:\n      - allow: client -> server:8080\n")
    assert shown(mistake) == ("unknown key `expects` in a phase", 7, "expects", "did you mean `expect`?")


def test_an_unknown_key_of_an_expectation(expectation_mistake: Expect):
    mistake = expectation_mistake("{deny: client -> server:8080, reasons: l7}")
    assert shown(mistake) == ("unknown key `reasons` in an expectation", 7, "reasons", "did you mean `reason`?")


@pytest.mark.parametrize("key", sorted(RESERVED))
def test_keys_kept_for_later_are_refused(folder: Folder, key: str):
    mistake = folder.mistake(f"case: web\n{key}: x\nphases: {{}}\n")
    assert shown(mistake) == (f"`{key}` is kept for later ({RESERVED[key]}) and means nothing yet", 2, key, "remove it")


def test_a_key_kept_for_later_is_refused_inside_an_expectation_too(expectation_mistake: Expect):
    mistake = expectation_mistake("{allow: client -> server:8080, hold: true}")
    assert mistake.message == "`hold` is kept for later (connections kept open across phases) and means nothing yet"
    assert mistake.caret == "hold"


def test_an_unknown_endpoint(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: cleint -> server:8080")
    assert shown(mistake) == ("unknown endpoint `cleint`", 7, "cleint", "did you mean `client`?")


def test_an_unknown_target(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> sever:8080")
    assert shown(mistake) == ("unknown endpoint `sever`", 7, "sever:8080", "did you mean `server`?")


def test_an_unknown_name_lists_what_there_is(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> db:5432")
    assert mistake.hint == "known: client, server, world, host, remote-node, kube-apiserver, kube-dns, any"


def test_an_endpoint_named_with_its_namespace(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> default/server:8080")
    assert shown(mistake) == (
        "unknown endpoint `default/server`",
        7,
        "default/server:8080",
        "endpoints are named without their namespace: `server`",
    )


def test_a_service_named_without_service(folder: Folder):
    mistake = folder.mistake(
        """\
        case: web
        endpoints:
          client: {}
          server: {labels: {app: server}, ports: [8080]}
        services:
          front: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
        phases:
          baseline:
            - allow: client -> front:80
        """
    )
    assert shown(mistake) == ("unknown endpoint `front`", 9, "front:80", "did you mean the service: `service/front`?")


def test_an_unknown_service(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> service/front:80")
    assert shown(mistake) == ("unknown service `front`", 7, "service/front:80", "services: none")


def test_a_service_of_another_namespace(folder: Folder):
    mistake = folder.mistake(
        """\
        case: web
        endpoints:
          client: {}
          server: {namespace: shop, labels: {app: server}, ports: [8080]}
        services:
          front: {namespace: shop, selector: {app: server}, ports: [8080]}
        phases:
          baseline:
            - allow: client -> service/front:8080
        """
    )
    assert shown(mistake) == ("unknown service `front`", 9, "service/front:8080", "it is in namespace shop: write `service/shop/front`")


def test_a_port_nobody_declares(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> server:8081")
    assert shown(mistake) == (
        "`server` declares no port 8081/TCP",
        7,
        "8081",
        "its ports: 8080, 53/UDP; a deny may say `undeclared: true`",
    )


def test_a_port_of_another_protocol(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> server:53")
    assert shown(mistake) == ("`server` declares no port 53/TCP", 7, "53", "it is UDP: write `server:53/UDP`")


def test_an_unknown_port_name(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> server:dsn")
    assert shown(mistake) == ("`server` declares no port named `dsn`", 7, "dsn", "did you mean `dns`?")


def test_a_port_that_no_endpoint_declares(expectation_mistake: Expect):
    mistake = expectation_mistake("deny: client -> any:9999")
    assert shown(mistake) == ("no endpoint declares the port 9999/TCP", 7, "9999", "a deny may say `undeclared: true`")


def test_an_address_nobody_declares(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> 203.0.113.1:443")
    assert shown(mistake) == (
        "nobody declares `203.0.113.1`",
        7,
        "203.0.113.1:443",
        "externals: {NAME: {addresses: [203.0.113.1], ports: [443]}}, or `undeclared: true` on a deny",
    )


def test_a_dns_name_nobody_declares(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> api.example.com:443")
    assert shown(mistake)[:3] == ("nobody declares `api.example.com`", 7, "api.example.com:443")


def test_a_target_without_a_port(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> server")
    assert shown(mistake) == ("the target `server` needs a port", 7, "server", "did you mean `server:8080`?")


def test_an_unknown_phase_is_answered_with_what_there_is(folder: Folder):
    case = folder.phases("  baseline:\n    - allow: client -> server:8080\n")
    with pytest.raises(CaseError) as caught:
        case.phase("basline")
    assert caught.value.message == "case `web` has no phase `basline`"
    assert caught.value.hint == "did you mean `baseline`?"


@pytest.mark.parametrize(
    ("feature", "hint"),
    [("l7_http", "did you mean `l7-http`?"), ("ipv5", "did you mean `ipv6`?")],
)
def test_an_unknown_feature(folder: Folder, feature: str, hint: str):
    mistake = folder.mistake(f"case: web\nrequires: {{features: [{feature}]}}\nphases: {{}}\n")
    assert shown(mistake) == (f"unknown feature `{feature}`", 2, feature, hint)


def test_an_unknown_reason_side_and_family(expectation_mistake: Expect):
    assert shown(expectation_mistake("{deny: client -> server:8080, reason: defaultdeny}")) == (
        "`defaultdeny` is no reason", 7, "defaultdeny", "did you mean `default-deny`?",
    )  # fmt: skip
    assert shown(expectation_mistake("{deny: client -> server:8080, at: inbound}")) == (
        "`inbound` is no side", 7, "inbound", "choose from: ingress, egress",
    )  # fmt: skip
    assert shown(expectation_mistake("{deny: client -> server:8080, family: ip4}")) == (
        "`ip4` is no address family", 7, "ip4", "did you mean `ipv4`?",
    )  # fmt: skip


# Things said twice


def test_a_duplicate_key(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: {}\nendpoints: {}\nphases: {}\n")
    assert shown(mistake) == ("`endpoints` stands here twice, first in line 2", 3, "endpoints", "remove one, or give it another name")


def test_a_duplicate_phase(folder: Folder):
    mistake = folder.mistake_in_phases("  one:\n    - allow: client -> server:8080\n  one:\n    - deny: client -> server:8080\n")
    assert shown(mistake) == ("`one` stands here twice, first in line 6", 8, "one", "remove one, or give it another name")


def test_a_duplicate_case(folder: Folder):
    text = "case: web\nendpoints: {a: {}, b: {ports: [80]}}\nphases: {p: [{allow: 'a -> b:80'}]}\n"
    mistake = folder.mistake(text + "---\n" + text)
    assert shown(mistake) == (
        "case `web` stands in this file twice, first in line 1", 5, "web", "rename one: it is part of the pytest node id",
    )  # fmt: skip


def test_a_duplicate_key_in_a_manifest(folder: Folder):
    folder.write(
        "p.yaml", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec:\n  ingress: []\n  ingress: []\n"
    )
    mistake = folder.mistake_in_phases("  p:\n    apply: p.yaml\n    otherwise: deny\n")
    assert shown(mistake) == ("`ingress` stands here twice, first in line 5", 6, "ingress", "remove one, or give it another name")
    assert isinstance(mistake.error, PolicyFileError)


def test_duplicate_ports_and_port_names(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints:\n  s: {ports: [80, {port: 80}]}\nphases: {}\n")
    assert shown(mistake)[:3] == ("`phases` is empty", 4, "{}")
    mistake = folder.mistake("case: web\nendpoints:\n  s: {ports: [80, {port: 80}]}\nphases: {p: []}\n")
    assert shown(mistake) == ("port 80/TCP stands here twice", 3, "{port: 80}", "remove one")
    mistake = folder.mistake("case: web\nendpoints:\n  s: {ports: [{port: 80, name: x}, {port: 81, name: x}]}\nphases: {p: []}\n")
    assert shown(mistake) == ("two ports are called `x`", 3, "x", "rename one")


def test_a_source_or_target_named_twice(expectation_mistake: Expect):
    assert shown(expectation_mistake("allow: client, client -> server:8080")) == ("`client` stands here twice", 7, "client", "remove one")
    assert expectation_mistake("allow: client -> server:8080, server:8080/TCP").caret == "server:8080/TCP"


# Things that make no sense together


def test_empty_sources(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: -> server:8080")
    assert shown(mistake) == ("there is no source before `->`", 7, "->", "name endpoints, or `any`")


def test_any_that_is_nobody(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: {server: {ports: [80]}}\nphases: {p: [{allow: any -> server:80}]}\n")
    assert shown(mistake) == (
        "`any` is nobody here: every declared endpoint but the other side", 3, "any", "declare another endpoint",
    )  # fmt: skip


def test_a_service_that_selects_nothing(folder: Folder):
    mistake = folder.mistake(
        """\
        case: web
        endpoints:
          server: {labels: {app: server}, ports: [80]}
        services:
          web: {selector: {app: sever}, ports: [80]}
        phases: {p: [{allow: world -> server:80}]}
        """
    )
    assert shown(mistake) == ("service `web` selects nothing in namespace default", 5, "selector", "did you mean `app: server`?")


def test_a_service_that_selects_in_another_namespace(folder: Folder):
    mistake = folder.mistake(
        """\
        case: web
        endpoints:
          server: {namespace: shop, labels: {app: server}, ports: [80]}
        services:
          web: {selector: {app: server}, ports: [80]}
        phases: {p: [{allow: world -> server:80}]}
        """
    )
    assert mistake.hint == "`server` has these labels, in namespace shop: add `namespace: shop`"


def test_a_service_port_that_leads_nowhere(folder: Folder):
    mistake = folder.mistake(
        """\
        case: web
        endpoints:
          server: {labels: {app: server}, ports: [80]}
        services:
          web: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
        phases: {p: [{allow: world -> server:80}]}
        """
    )
    assert shown(mistake) == ("no backend of `web` declares port 8080/TCP", 5, "8080", "their ports: 80/TCP")


def test_allow_and_deny_of_the_same_thing(folder: Folder):
    mistake = folder.mistake_in_phases("  p:\n    - allow: any -> server:8080\n    - deny: client -> server:8080\n")
    assert shown(mistake) == (
        "`client -> server:8080` cannot be both `allow` and `deny` in one phase",
        8,
        "client -> server:8080",
        "line 7 says `allow: any -> server:8080`",
    )


def test_allow_and_deny_of_different_requests_is_no_contradiction(folder: Folder):
    case = folder.phases("  p:\n    - allow: client -> server:8080 GET /a\n    - deny: client -> server:8080 GET /b\n")
    assert len(case.phases[0].expectations) == 2


def test_status_without_a_request(expectation_mistake: Expect):
    mistake = expectation_mistake("{deny: client -> server:8080, status: 403}")
    assert shown(mistake) == ("`status` without a request", 7, "status", "add one to the text, as in `client -> server:8080 GET /path`")


def test_status_with_a_request_that_has_none(expectation_mistake: Expect):
    mistake = expectation_mistake("{deny: client -> server:8080 tls a.example, status: 403}")
    assert shown(mistake) == (
        "`status` does not go with `tls a.example`", 7, "status", "only HTTP and gRPC requests are answered with one",
    )  # fmt: skip


def test_headers_without_a_request(expectation_mistake: Expect):
    mistake = expectation_mistake("{deny: client -> server:8080, headers: {X-A: b}}")
    assert shown(mistake)[:3] == ("`headers` without an HTTP request", 7, "headers")


def test_a_status_of_the_wrong_kind(expectation_mistake: Expect):
    assert shown(expectation_mistake("{deny: client -> server:8080 GET /, status: 42}"))[:3] == (
        "`42` is no HTTP status: 100 to 599",
        7,
        "42",
    )
    assert shown(expectation_mistake("{deny: client -> server:8080 grpc /a.B/C, status: PERMISION_DENIED}")) == (
        "`PERMISION_DENIED` is no gRPC status", 7, "PERMISION_DENIED", "did you mean `PERMISSION_DENIED`?",
    )  # fmt: skip
    assert expectation_mistake("{deny: client -> server:8080 grpc /a.B/C, status: 403}").message == "403 is no gRPC status: 0 to 16"


def test_by_with_reason_default_deny(folder: Folder):
    mistake = folder.mistake_in_phases(
        f"  p:\n    policies: [{DENY_ALL}]\n    expect:\n      - {{deny: client -> server:8080, reason: default-deny, by: deny-all}}\n"
    )
    assert shown(mistake) == (
        "`by` with reason default-deny: no policy decides then", 9, "by", "remove `by`, or expect reason deny-rule",
    )  # fmt: skip


def test_reason_and_at_of_what_is_allowed(expectation_mistake: Expect):
    assert shown(expectation_mistake("{allow: client -> server:8080, reason: l7}"))[:3] == (
        "`reason` says why something is denied, and this is allowed", 7, "reason",
    )  # fmt: skip
    assert expectation_mistake("{allow: client -> server:8080, at: ingress}").caret == "at"


def test_undeclared_goes_with_deny_only(expectation_mistake: Expect):
    mistake = expectation_mistake("{allow: client -> server:9, undeclared: true}")
    assert shown(mistake) == (
        "`undeclared` goes with deny only: nobody answers there, so `allow` could never be seen", 7, "undeclared", "declare the port",
    )  # fmt: skip
    mistake = expectation_mistake("{deny: client -> server:8080, undeclared: true}")
    assert shown(mistake) == ("`server` declares the port 8080/TCP", 7, "8080", "remove `undeclared: true`")


def test_two_actions_or_none(expectation_mistake: Expect):
    assert shown(expectation_mistake("{allow: client -> server:8080, deny: client -> server:8080}")) == (
        "one expectation states both `allow` and `deny`", 7, "deny", "write two list items",
    )  # fmt: skip
    assert shown(expectation_mistake("{reason: l7}"))[0] == "an expectation needs `allow:`, `deny:` or `audit:`"


def test_what_cannot_be_a_source(expectation_mistake: Expect):
    assert expectation_mistake("allow: kube-dns -> server:8080").message == "`kube-dns` cannot be a source: nothing can be sent from it"
    assert expectation_mistake("allow: api.example.com -> server:8080").message == "a DNS name cannot be a source"
    assert expectation_mistake("allow: world -> world:80").message == (
        "`world` -> `world:80`: neither side is a declared endpoint, so no policy is asked"
    )
    assert expectation_mistake("allow: world -> host:80").message == "`host` is the node of a pod, and neither side is one"


def test_requests_that_do_not_fit_their_target(expectation_mistake: Expect):
    assert shown(expectation_mistake("allow: client -> server:8080 icmp")) == ("ICMP has no port", 7, "8080", "write `server`")
    assert shown(expectation_mistake("allow: client -> server lookup a.example")) == (
        "`lookup` asks `kube-dns`, not `server`", 7, "server", "write `-> kube-dns lookup a.example`",
    )  # fmt: skip
    assert shown(expectation_mistake("{allow: client -> server icmp, family: ipv6}")) == (
        "`icmp` is ipv4 only", 7, "ipv6", "icmp is IPv4, icmp6 is IPv6: write two expectations",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("soon", "`soon` is no duration", "seconds, or a number with its unit: 200ms, 3s, 1m"),
        ("0s", "a duration must be longer than nothing", ""),
        ("-1", "`-1` is no duration", "seconds, or a number with its unit: 200ms, 3s, 1m"),
    ],
)
def test_a_wrong_duration(expectation_mistake: Expect, value: str, message: str, hint: str):
    assert shown(expectation_mistake(f"{{allow: client -> server:8080, timeout: {value}}}")) == (message, 7, value, hint)


# Shapes


def test_a_list_where_a_mapping_is_wanted(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: [a, b]\nphases: {p: []}\n")
    assert shown(mistake)[:3] == ("expected a mapping, found a list", 2, "[a, b]")


def test_a_text_where_a_list_is_wanted(folder: Folder):
    mistake = folder.mistake("case: web\ntags: l4\nphases: {p: []}\n")
    assert shown(mistake) == ('expected a list, found the text "l4"', 2, "l4", "as a list: [l4]")


def test_a_number_in_quotes(folder: Folder):
    mistake = folder.mistake('case: web\nendpoints: {s: {ports: ["8080"]}}\nphases: {p: []}\n')
    assert shown(mistake) == ('expected a port number, found the text "8080"', 2, '"8080"', "without quotes: 8080")


def test_a_port_with_its_protocol_in_one_text(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: {s: {ports: [53/UDP]}}\nphases: {p: []}\n")
    assert shown(mistake) == ('expected a port number, found the text "53/UDP"', 2, "53/UDP", "write {port: 53, protocol: UDP}")


def test_a_port_out_of_range(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: {s: {ports: [70000]}}\nphases: {p: []}\n")
    assert shown(mistake)[:3] == ("expected a port number between 1 and 65535, found 70000", 2, "70000")


def test_a_key_that_says_nothing(folder: Folder):
    mistake = folder.mistake("case: web\ntags:\nphases: {p: []}\n")
    assert shown(mistake) == ("`tags` says nothing", 2, "tags", "give it a value, or remove the key")


def test_a_phase_that_expects_nothing(folder: Folder):
    for text in ("  p: []\n", "  p: {expect: []}\n"):
        mistake = folder.mistake_in_phases(text)
        assert shown(mistake) == ("phase `p` expects nothing", 6, "p", "give it expectations: `- allow: client -> server:8080`")


def test_a_missing_key(folder: Folder):
    assert shown(folder.mistake("phases: {p: []}\n"))[:3] == ("a case needs `case`", 1, "phases")
    assert shown(folder.mistake("case: web\nservices: {s: {ports: [80]}}\nphases: {p: []}\n"))[:3] == (
        "a service needs `selector`", 2, "{ports: [80]}",
    )  # fmt: skip


def test_a_file_without_a_case(folder: Folder):
    mistake = folder.mistake("# nothing yet\n")
    assert shown(mistake) == ("there is no case in this file", 1, "", "a case begins with `case: its name`")


def test_a_document_that_is_no_mapping(folder: Folder):
    assert folder.mistake("- case: web\n").message == "expected a case (a mapping), found a list"


def test_names_that_kubernetes_refuses(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: {Front_End: {}}\nphases: {p: []}\n")
    assert shown(mistake) == (
        "`Front_End` is no valid name: lower case letters, digits and `-`, at most 63", 2, "Front_End", "did you mean `front-end`?",
    )  # fmt: skip
    mistake = folder.mistake("case: web\nendpoints: {a: {labels: {app: 'a b'}}}\nphases: {p: []}\n")
    assert shown(mistake)[:3] == ("`a b` is no valid label value: letters, digits, `-`, `_` and `.`, at most 63", 2, "'a b'")
    mistake = folder.mistake("case: web\nendpoints: {a: {labels: {app/: x}}}\nphases: {p: []}\n")
    assert mistake.message == "`app/` is no valid label key"


def test_names_that_would_break_a_node_id(folder: Folder):
    mistake = folder.mistake("case: a::b\nphases: {p: []}\n")
    assert shown(mistake) == ("a name of a case or phase may not hold `::`", 1, "::", "pytest's node ids are FILE::CASE::PHASE")


def test_an_endpoint_may_not_be_called_any(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: {any: {}}\nphases: {p: []}\n")
    assert shown(mistake)[:3] == ("an endpoint may not be called `any`: in expectations it means every endpoint", 2, "any")


def test_an_external_may_not_be_called_like_an_endpoint(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: {a: {}}\nexternals: {a: {}}\nphases: {p: []}\n")
    assert shown(mistake) == ("`a` is an endpoint already", 3, "a", "rename one")


def test_pods_that_would_share_a_name(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: {a: {replicas: 2}, a-1: {}}\nphases: {p: []}\n")
    assert shown(mistake) == ("the pods of `a-1` and `a` are both called default/a-1", 2, "a-1", "rename one of them")


def test_host_ports_that_collide(folder: Folder):
    mistake = folder.mistake(
        "case: web\nendpoints:\n  x: {hostNetwork: true, node: a, ports: [80]}\n  y: {hostNetwork: true, node: a, ports: [80]}\nphases: {p: []}\n"
    )
    assert shown(mistake) == ("port 80/TCP of node a is taken by `x`", 4, "y", "put them on different nodes")


def test_what_is_served_over_the_wrong_protocol(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: {a: {ports: [{port: 80, serve: sink}]}}\nphases: {p: []}\n")
    assert shown(mistake) == ("`sink` is served over UDP, not TCP", 2, "sink", "add `protocol: UDP`")


def test_addresses_of_externals(folder: Folder):
    def mistake(text: str) -> tuple[str, int, str, str]:
        return shown(folder.mistake(f"case: web\nexternals: {{{text}}}\nphases: {{p: []}}\n"))

    assert mistake("a: {address: 10.0.0.0/8}") == ("`10.0.0.0/8` is no IP address", 2, "10.0.0.0/8", "one address, without a prefix length")
    assert mistake("a: {address: 127.0.0.1}")[:3] == ("127.0.0.1 cannot be the address of something outside the cluster", 2, "127.0.0.1")
    assert mistake("a: {addresses: [192.0.2.1, 192.0.2.2]}")[:3] == ("a second ipv4 address", 2, "192.0.2.2")
    assert mistake("a: {address: 192.0.2.1}, b: {address: 192.0.2.1}")[:3] == ("`192.0.2.1` belongs to `a` already", 2, "192.0.2.1")
    assert mistake("a: {address: 192.0.2.1, addresses: [192.0.2.2]}")[:3] == ("both `address` and `addresses`", 2, "addresses")
    assert mistake("a: {names: ['*.example.com']}") == (
        "`*.example.com` is no DNS name", 2, "'*.example.com'", "`*` stands in no name: this is one name, not a pattern",
    )  # fmt: skip


IMPOSSIBLE = [
    (f"{'a' * 64}.example.com", "`aaaaaaaaaaaa...` has 64 characters, and a label has 63 at most"),
    (".".join(["a" * 63] * 4), "it has 255 characters, and a name has 253 at most"),
    ("api..example.com", "a label of it is empty"),
    ("api.exa!mple.com", "`!` stands in no name"),
    ("bücher.example.com", "`ü` stands in no name"),
    ("-api.example.com", "a label begins with a letter or a digit, and ends with one"),
    ("*.example.com", "`*` stands in no name: this is one name, not a pattern"),
]


@pytest.mark.parametrize(("name", "why"), IMPOSSIBLE)
def test_a_name_that_dns_cannot_have_is_refused_wherever_it_stands(folder: Folder, expectation_mistake, name: str, why: str):
    external = folder.mistake(f"case: web\nexternals: {{a: {{names: ['{name}']}}}}\nphases: {{p: []}}\n")
    assert (external.message, external.hint) == (f"`{name}` is no DNS name", why)
    for text in (f"client -> {name}:443", f"client -> kube-dns lookup {name}", f"client -> server:8080 tls {name}"):
        found = expectation_mistake(f"allow: '{text}'")
        assert (found.message, found.hint) == (f"`{name}` is no DNS name", why), text


def test_a_node_that_is_no_abstract_one(folder: Folder):
    mistake = folder.mistake("case: web\nendpoints: {a: {node: worker-1}}\nphases: {p: []}\n")
    assert shown(mistake) == (
        "`worker-1` is no abstract node", 2, "worker-1", "nodes are called a, b, ...; what they are in a cluster, the harness decides",
    )  # fmt: skip


# Policies and manifests


def test_a_missing_manifest(folder: Folder):
    folder.write("manifests/default-deny.yaml", "")
    mistake = folder.mistake_in_phases("  p:\n    apply: manifests/defualt-deny.yaml\n    otherwise: deny\n")
    assert mistake.message.startswith("there is no manifest manifests/defualt-deny.yaml (looked for ")
    assert (mistake.line, mistake.caret, mistake.hint) == (7, "manifests/defualt-deny.yaml", "did you mean `manifests/default-deny.yaml`?")
    assert isinstance(mistake.error, PolicyFileError)


def test_a_missing_folder_of_manifests(folder: Folder):
    mistake = folder.mistake_in_phases("  p:\n    apply: [nowhere/p.yaml]\n    otherwise: deny\n")
    assert mistake.message.startswith("there is no manifest nowhere/p.yaml: no folder ")
    assert mistake.hint == "paths are relative to the case file"


def test_a_folder_as_a_manifest(folder: Folder):
    folder.write("manifests/deny.yaml", "")
    mistake = folder.mistake_in_phases("  p:\n    apply: manifests\n    otherwise: deny\n")
    assert shown(mistake) == ("manifests is a folder", 7, "manifests", "name its manifests: deny.yaml")


def test_a_policy_of_an_unknown_kind(folder: Folder):
    folder.write("p.yaml", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolcy\nmetadata: {name: p}\n")
    mistake = folder.mistake_in_phases("  p:\n    apply: p.yaml\n    otherwise: deny\n")
    assert shown(mistake) == (
        "unknown kind `CiliumNetworkPolcy`: no network policy",
        2,
        "CiliumNetworkPolcy",
        "did you mean `CiliumNetworkPolicy`? (supported: CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy, CiliumCIDRGroup)",
    )


def test_a_kind_that_is_no_policy_names_the_supported_ones(folder: Folder):
    mistake = folder.mistake_in_phases("  p:\n    policies: [{apiVersion: v1, kind: Pod, metadata: {name: p}}]\n    otherwise: deny\n")
    assert mistake.hint == "supported: CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy, CiliumCIDRGroup"


@pytest.mark.parametrize(
    ("policy", "message", "caret", "hint"),
    [
        ("{kind: NetworkPolicy, metadata: {name: p}}", "a NetworkPolicy needs `apiVersion`", None, ""),
        (
            "{apiVersion: cilium.io/v1, kind: CiliumNetworkPolicy, metadata: {name: p}}",
            "there is no CiliumNetworkPolicy in `cilium.io/v1`", "cilium.io/v1", "write apiVersion: cilium.io/v2",
        ),
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy}", "a CiliumNetworkPolicy needs `metadata` with a `name`", None, ""),
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {}}", "the metadata of a CiliumNetworkPolicy needs `name`", "{}", ""),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: 1.10}}",
            "`name` must be a text, not the number `1.10`", "1.10", 'quote this: name: "1.10"',
        ),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: p, namespace: x}}",
            "a CiliumClusterwideNetworkPolicy is cluster-wide: it has no namespace", "namespace", "remove `namespace`",
        ),
        ("{metadata: {name: p}}", "a Kubernetes object needs `kind`", None, None),
        ("text", 'expected a Kubernetes object (a mapping), found the text "text"', "text", ""),
    ],
)  # fmt: skip
def test_objects_that_the_api_server_would_not_take(folder: Folder, policy: str, message: str, caret: str | None, hint: str | None):
    mistake = folder.mistake_in_phases(f"  p:\n    policies: [{policy}]\n    otherwise: deny\n")
    assert mistake.message == message
    assert mistake.caret == (policy if caret is None else caret)
    assert hint is None or mistake.hint == hint
    assert isinstance(mistake.error, PolicyFileError)


def test_removing_what_is_not_in_force(folder: Folder):
    mistake = folder.mistake_in_phases(
        f"""\
          one:
            policies: [{DENY_ALL}]
            otherwise: deny
          two:
            remove: [deny-al]
            otherwise: allow
        """
    )
    assert shown(mistake) == ("policy `deny-al` is not in force before this phase", 10, "deny-al", "did you mean `deny-all`?")


def test_naming_what_is_applied_later(folder: Folder):
    mistake = folder.mistake_in_phases(
        f"""\
          one:
            - {{allow: client -> server:8080, by: deny-all}}
          two:
            policies: [{DENY_ALL}]
            otherwise: deny
        """
    )
    assert shown(mistake) == ("policy `deny-all` is not in force in this phase", 7, "deny-all", "it is applied in phase `two`")


def test_naming_what_is_removed(folder: Folder):
    mistake = folder.mistake_in_phases(
        f"""\
          one:
            policies: [{DENY_ALL}]
            otherwise: deny
          two:
            remove: [deny-all]
            expect: [{{allow: client -> server:8080, by: deny-all}}]
        """
    )
    assert shown(mistake) == ("policy `deny-all` is not in force in this phase", 11, "deny-all", "it is removed in this phase")


def test_an_ambiguous_policy_name(folder: Folder):
    other = DENY_ALL.replace("name: deny-all", "name: deny-all, namespace: dev")
    mistake = folder.mistake_in_phases(f"  one:\n    policies: [{DENY_ALL}, {other}]\n    inert: [deny-all]\n    otherwise: deny\n")
    assert shown(mistake) == ("`deny-all` could be 2 policies", 8, "deny-all", "write one of `default/deny-all`, `dev/deny-all`")


def test_inert_and_rejected_at_once(folder: Folder):
    mistake = folder.mistake_in_phases(
        f"  one:\n    policies: [{DENY_ALL}]\n    inert: [deny-all]\n    rejected: [deny-all]\n    otherwise: deny\n"
    )
    assert shown(mistake)[:3] == ("policy `deny-all` is both `inert` and `rejected`", 8, "deny-all")


# YAML's own traps


def test_a_text_that_begins_with_a_star(expectation_mistake: Expect):
    mistake = expectation_mistake("deny: * -> server:8080")
    assert shown(mistake) == ("a text that begins with `*` is an alias to YAML", 7, "*", 'quote this: deny: "* -> server:8080"')


def test_an_alias_in_front_of_a_text(expectation_mistake: Expect):
    mistake = expectation_mistake("deny: *client -> server:8080")
    assert shown(mistake) == ("a text that begins with `*` is an alias to YAML", 7, "*", 'quote this: deny: "*client -> server:8080"')


def test_only_the_star_in_quotes(expectation_mistake: Expect):
    mistake = expectation_mistake('deny: "*" -> server:8080')
    assert shown(mistake) == ("to YAML the text ends at the second quote", 7, '"*"', 'quote this: deny: "* -> server:8080"')


def test_a_comma_inside_braces(expectation_mistake: Expect):
    mistake = expectation_mistake("{allow: client, other -> server:8080}")
    assert shown(mistake) == (
        "inside braces YAML splits the text at its comma",
        7,
        "other -> server:8080",
        'quote this: {allow: "client, other -> server:8080"}',
    )


def test_a_comma_between_targets_inside_braces(expectation_mistake: Expect):
    mistake = expectation_mistake("{deny: client -> server:8080, server:9, reason: l7}")
    assert mistake.hint == 'quote this: {deny: "client -> server:8080, server:9"}'


def test_a_colon_inside_a_text(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> server: 8080")
    assert shown(mistake) == (
        "`: ` inside a text makes it a mapping to YAML", 7, ":", 'quote this: allow: "client -> server: 8080"',
    )  # fmt: skip


def test_a_key_in_the_line_of_the_text(expectation_mistake: Expect):
    mistake = expectation_mistake("deny: client -> server:8080 reason: default-deny")
    assert shown(mistake) == (
        "`reason:` stands in the text of `deny`", 7, "reason:", "put `reason: default-deny` into a line of its own, below `deny`",
    )  # fmt: skip


def test_brackets_inside_braces(expectation_mistake: Expect):
    mistake = expectation_mistake("{allow: client -> [2001:db8::1]:443}")
    assert shown(mistake) == (
        "inside braces YAML does not take `[` as text", 7, "[", 'quote this: allow: "client -> [2001:db8::1]:443"',
    )  # fmt: skip


def test_a_list_in_front_of_an_arrow(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: [client, other] -> server:8080")
    assert shown(mistake) == (
        "to YAML `[` begins a list, and nothing may follow it", 7, "[client, other]", "lists have commas alone: allow: client, other -> server:8080",
    )  # fmt: skip


def test_a_hash_that_cuts_a_text_short(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client #1 -> server:8080")
    assert mistake.message == "`->` is missing between sources and targets"
    assert mistake.hint == 'YAML takes ` #` for a comment; if it belongs to the text, quote this: allow: "client #1 -> server:8080"'


def test_a_hash_behind_a_path(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: client -> server:8080 GET /x #top")
    assert shown(mistake) == (
        "YAML takes ` #top` for a comment",
        7,
        "#top",
        'quote this: allow: "client -> server:8080 GET /x #top", or put a blank after `#`',
    )


def test_a_comment_behind_a_text_is_a_comment(folder: Folder):
    case = folder.phases("  p:\n    - allow: client -> server:8080 GET /x  # as everybody\n    - deny: client -> server:dns #todo\n")
    assert [each.text for each in case.phases[0].expectations] == ["client -> server:8080 GET /x", "client -> server:dns"]


@pytest.mark.parametrize(
    ("value", "caret", "message", "hint"),
    [
        ("1.10", "1.10", "YAML reads the version 1.10 as the number 1.1", 'quote this, and say how to compare: ">=1.10"'),
        ('"1.16.2"', '"1.16.2"', "`1.16.2` is no version specifier", 'say how to compare: ">=1.16.2"'),
        (">=1.16", ">=1.16", "a text that begins with `>` spans lines to YAML", 'quote this: ">=1.16"'),
        ('"about 1.16"', '"about 1.16"', "`about 1.16` is no version specifier", 'as in ">=1.16", "<1.19" or ">=1.16,<1.20"'),
    ],
)
def test_versions(folder: Folder, value: str, caret: str, message: str, hint: str):
    for text in (f"requires: {{cilium: {value}}}", f"requires:\n  cilium: {value}"):
        mistake = folder.mistake(f"case: web\n{text}\nphases: {{p: []}}\n")
        assert (mistake.message, mistake.caret, mistake.hint) == (message, caret, hint)


def test_a_feature_that_begins_with_an_exclamation_mark(folder: Folder):
    for text in ("requires: {features: [!spire]}", "requires:\n  features:\n    - !spire"):
        mistake = folder.mistake(f"case: web\n{text}\nphases: {{p: []}}\n")
        assert mistake.caret == "!spire"
        assert mistake.hint == 'quote this: "!spire"'


def test_an_expectation_in_quotes_as_a_whole(expectation_mistake: Expect):
    mistake = expectation_mistake('"allow: client -> server:8080"')
    assert shown(mistake)[:2] == ("an expectation is a mapping, not one text", 7)


def test_an_action_without_its_colon(expectation_mistake: Expect):
    mistake = expectation_mistake("{allow client -> server:8080}")
    assert shown(mistake) == (
        "`:` is missing after `allow`", 7, "allow client -> server:8080", "write allow: client -> server:8080",
    )  # fmt: skip


YAML = [
    ("x: [1,2\ny: 3\n", "the `[` that opens here is not closed (noticed in line 2)", 1, 4),
    ("x: {a: b\n\ny: 3\n", "the `{` that opens here is not closed (noticed in line 3)", 1, 4),
    ('x: "abc\n', "the quote that opens here is never closed", 1, 4),
    ("a:\n\t- b\n", "a tab in the indentation", 2, 1),
    ("a:\n  - b\n c: d\n", "expected another key of the mapping that begins in line 1", 3, 2),
    ("- a: b\n  c: d\n e: f\n", "expected another `- ` of the list that begins in line 1", 3, 2),
    ("a: b\nc d\ne: f\n", "expected `key: value` here", 2, 1),
    ("a: b\n  c: d\n", "a key may not stand here", 2, 4),
    ("a: @b\n", "a text may not begin with `@` in YAML", 1, 4),
    ("a: \x01\n", "the character U+0001 may not stand in YAML", 1, 4),
    ('a: "b" c\n', "to YAML the text ends at the second quote", 1, 4),
    ("a: &x [*x]\n", "an alias stands inside what it names", 1, 4),
    ("[a, b]: c\n", "a key must be a text", 1, 1),
    ("a: {<<: b}\n", "`<<` merges mappings only", 1, 9),
    ("a: !thing b\n", "`!thing` at the start of a text is a tag to YAML", 1, 4),
]


@pytest.mark.parametrize("loader", [LibyamlLoader, PurePythonLoader])
@pytest.mark.parametrize(("text", "message", "line", "column"), YAML)
def test_text_that_is_no_yaml(loader: object, text: str, message: str, line: int, column: int):
    with pytest.raises(HarnessError) as caught:
        parse_documents(Source("test_x.yaml", text), loader=loader)
    error = caught.value
    assert error.message == message
    assert error.location is not None
    assert (error.location.line, error.location.column) == (line, column)


def test_a_bomb_of_aliases_is_refused():
    text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for name, before in zip("bcdefgh", "abcdefg", strict=True):
        text += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    with pytest.raises(HarnessError, match="aliases repeat more than 50,000 values"):
        parse_documents(Source("bomb.yaml", text))


def test_bytes_that_are_no_text(folder: Folder):
    file = folder.path / "test_case.yaml"
    file.write_bytes(b"case: \xff\n")
    from harness.cases.load import load_cases

    with pytest.raises(CaseError, match="not UTF-8 text: byte 6 is 0xff"):
        load_cases(file)


def test_an_error_is_printed_with_its_line_caret_and_hint(expectation_mistake: Expect):
    mistake = expectation_mistake("allow: cleint -> server:8080")
    where, source, caret, hint = str(mistake.error).splitlines()
    assert where.endswith("test_case.yaml:7:14: unknown endpoint `cleint`")
    assert source == "        - allow: cleint -> server:8080"
    assert caret == "                 ^^^^^^"
    assert hint == "  did you mean `client`?"


@pytest.mark.parametrize("ttl", ["0", "86401", "1.5", "'2'", "soon"])
def test_a_ttl_that_is_none_is_told(folder, ttl):
    mistake = folder.mistake(
        f"case: web\nexternals: {{stripe: {{names: [api.stripe.com], ttl: {ttl}}}}}\nendpoints: {{a: {{}}}}\nphases: {{p: []}}\n"
    )
    assert "a TTL in seconds" in str(mistake)
