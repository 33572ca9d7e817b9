"""What the agent's sanitizer checks of single values: label selectors, CIDRs, ports, names, ICMP types, HTTP rules.

Each check takes the value and its path and raises `Refusal`. What concerns whole elements is in `parse_cilium`, types are in `crd`.
Sources: pkg/policy/api/rule_validation.go, selector.go, http.go, fqdn.go, icmp.go and pkg/labels/validation.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import re2

from harness.model.verdict import PolicyError, PolicyStage
from harness.policy.options import Options
from harness.policy.prefix import Prefix, parse_address, parse_prefix

_NAME_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", re.ASCII)
_LABEL_SOURCE = re.compile(r"[A-Za-z0-9]+", re.ASCII)
_SERVICE_NAME_CHARACTERS = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", re.ASCII)
_DIGITS = re.compile(r"[0-9](_?[0-9])*", re.ASCII)
_MATCH_NAME = re.compile(r"[-a-zA-Z0-9_.]+", re.ASCII)
_MATCH_PATTERN = re.compile(r"[-a-zA-Z0-9_.*]+", re.ASCII)
_MAX_NAME = 63
_MAX_SUBDOMAIN = 253
_MAX_FQDN = 255
_QUIET = re2.Options()
_QUIET.log_errors = False

ICMPV4_TYPES: Mapping[str, int] = {
    "EchoReply": 0,
    "DestinationUnreachable": 3,
    "Redirect": 5,
    "Echo": 8,
    "EchoRequest": 8,
    "RouterAdvertisement": 9,
    "RouterSelection": 10,
    "TimeExceeded": 11,
    "ParameterProblem": 12,
    "Timestamp": 13,
    "TimestampReply": 14,
    "Photuris": 40,
    "ExtendedEchoRequest": 42,
    "ExtendedEchoReply": 43,
}
ICMPV6_TYPES: Mapping[str, int] = {
    "DestinationUnreachable": 1,
    "PacketTooBig": 2,
    "TimeExceeded": 3,
    "ParameterProblem": 4,
    "EchoRequest": 128,
    "EchoReply": 129,
    "MulticastListenerQuery": 130,
    "MulticastListenerReport": 131,
    "MulticastListenerDone": 132,
    "RouterSolicitation": 133,
    "RouterAdvertisement": 134,
    "NeighborSolicitation": 135,
    "NeighborAdvertisement": 136,
    "RedirectMessage": 137,
    "RouterRenumbering": 138,
    "ICMPNodeInformationQuery": 139,
    "ICMPNodeInformationResponse": 140,
    "InverseNeighborDiscoverySolicitation": 141,
    "InverseNeighborDiscoveryAdvertisement": 142,
    "HomeAgentAddressDiscoveryRequest": 144,
    "HomeAgentAddressDiscoveryReply": 145,
    "MobilePrefixSolicitation": 146,
    "MobilePrefixAdvertisement": 147,
    "DuplicateAddressRequestCodeSuffix": 157,
    "DuplicateAddressConfirmationCodeSuffix": 158,
    "ExtendedEchoRequest": 160,
    "ExtendedEchoReply": 161,
}


class Refusal(Exception):  # noqa: N818 - a refusal is the answer, not a failure of ours; it never leaves this package
    """Somebody refuses the policy. Caught by `parse_policy`, which makes a `PolicyError` of it."""

    def __init__(self, stage: PolicyStage, path: str, text: str) -> None:
        super().__init__(text)
        self.error = PolicyError(stage, f"{path}: {text}" if path else text, path)


def agent(path: str, text: str) -> Refusal:
    """A refusal by the agent: the object is stored with Valid=False and not enforced."""
    return Refusal(PolicyStage.AGENT, path, text)


def is_service_name(text: str) -> bool:
    """An IANA service name (RFC 6335): up to 15 letters, digits and single inner dashes, with at least one letter."""
    return 0 < len(text) <= 15 and _SERVICE_NAME_CHARACTERS.fullmatch(text) is not None and any(c.isalpha() for c in text)


def label_key(text: str, path: str, options: Options, *, prefix: str = "") -> None:
    """A selector key with an optional source. Until 1.19 the key is checked with its source glued on by a dot (`any.app`)."""
    if not options.at_least(1, 20):
        qualified_name(prefix + text if prefix else extended_key(text), path)
        return
    source, colon, key = text.partition(":")
    if not colon:
        key = text
    elif ":" in key:
        raise agent(path, f"invalid label selector: {text!r} has more than one ':' (a source may come before one)")
    elif not _LABEL_SOURCE.fullmatch(source):
        raise agent(path, f"invalid label selector: {text!r}: a label source is letters and digits")
    qualified_name(key, path)


def extended_key(text: str) -> str:
    """The form of 1.19 and earlier: `k8s:app` is `k8s.app`, `app` is `any.app`."""
    source, key = split_source(text)
    return f"{source or 'any'}.{key.partition('=')[0]}"


def split_source(text: str) -> tuple[str, str]:
    """`k8s:app` is (k8s, app), `app` is ('', app), `$host` is (reserved, host)."""
    if text.startswith("$"):
        return "reserved", text[1:]
    source, colon, key = text.partition(":")
    return (source, key) if colon else ("", text)


def qualified_name(text: str, path: str) -> None:
    """A Kubernetes label key: `name` or `dns.subdomain/name`."""
    head, slash, name = text.rpartition("/")
    if slash and ("/" in head or len(head) > _MAX_SUBDOMAIN or not _SUBDOMAIN.fullmatch(head)):
        raise agent(path, f"invalid label selector: {text!r}: the part before '/' must be a lower-case DNS subdomain")
    if len(name) > _MAX_NAME:
        raise agent(path, f"invalid label selector: {text!r}: name part must be no more than {_MAX_NAME} bytes")
    if not _NAME_PART.fullmatch(name):
        raise agent(
            path,
            f"invalid label selector: {text!r}: name part must consist of alphanumeric characters, '-', '_' or '.', "
            "and must start and end with an alphanumeric character",
        )


def label_value(text: str, path: str) -> None:
    if len(text) > _MAX_NAME or not _LABEL_VALUE.fullmatch(text):
        raise agent(
            path,
            f"invalid label selector: {text!r}: a label value is up to {_MAX_NAME} alphanumeric characters, '-', '_' or '.', "
            "and starts and ends with an alphanumeric character",
        )


def expression(operator: str, values: Iterable[str] | None, path: str) -> None:
    """In and NotIn need values, Exists and DoesNotExist take none."""
    count = len(tuple(values or ()))
    if operator in ("In", "NotIn"):
        if not count:
            raise agent(f"{path}.values", f"invalid label selector: must be specified when `operator` is '{operator}'")
    elif operator in ("Exists", "DoesNotExist"):
        if count:
            raise agent(f"{path}.values", f"invalid label selector: may not be specified when `operator` is '{operator}'")
    else:
        raise agent(f"{path}.operator", f"invalid label selector: {operator!r} is not a valid selector operator")


def cidr(text: str, path: str, *, bare: bool = False) -> Prefix:
    """A prefix; a bare address only where `bare` (toCIDR and fromCIDR)."""
    if not text:
        raise agent(path, "IP must be specified")
    try:
        return parse_prefix(text)
    except ValueError as error:
        if bare and "/" not in text:
            try:
                return parse_address(text)
            except ValueError:
                pass
        raise agent(path, f"unable to parse CIDR: {error}") from None


def excepts(prefix: Prefix, texts: Iterable[str], written: str, path: str, options: Options) -> tuple[Prefix, ...]:
    """The exceptions of a CIDR, each inside it. 1.19 and earlier look at the exception's address only, not at its length."""
    found = []
    for index, text in enumerate(texts):
        where = f"{path}[{index}]"
        each = cidr(text, where)
        first = parse_prefix(f"{text.partition('/')[0]}/{each.bits}")
        if not prefix.contains(first) or (options.at_least(1, 20) and prefix.length > each.length):
            raise agent(where, f"allow CIDR prefix {written} does not contain exclude CIDR prefix {text}")
        found.append(each)
    return tuple(found)


def port_number(text: str, path: str) -> int:
    """A 16-bit number as Go reads it with base 0: a leading 0 means octal, underscores may separate digits."""
    if not _DIGITS.fullmatch(text):
        raise agent(path, f"unable to parse port: {text!r} is neither a number nor an IANA service name")
    digits = text.replace("_", "")
    octal = len(digits) > 1 and digits[0] == "0"
    if octal and not set(digits) <= set("01234567"):
        raise agent(path, f"unable to parse port: {text!r} begins with 0 and so is octal, which has no digits 8 and 9")
    number = int(digits, 8 if octal else 10)
    if number > 65535:
        raise agent(path, f"unable to parse port: {text} is out of range (0 to 65535)")
    return number


def icmp_type(value: Any, family: str, path: str) -> int:
    """The number of an ICMP type. A name of the other family fails already when the agent decodes the object."""
    if isinstance(value, int):
        return min(max(value, 0), 65535)  # the agent does not check numbers
    if value.isdigit():
        return int(value)
    names = ICMPV6_TYPES if family == "IPv6" else ICMPV4_TYPES
    if value not in names:
        raise Refusal(PolicyStage.DECODE, path, f"ICMP type {value} not found in {family}")
    return names[value]


def fqdn(match_name: str, match_pattern: str, path: str, *, both_allowed: bool = False) -> None:
    """A name or pattern of toFQDNs, or (`both_allowed`) of a DNS rule."""
    if match_name and match_pattern and not both_allowed:
        raise agent(path, "only one of MatchName or MatchPattern is allowed in an FQDNSelector")
    if match_name and not _MATCH_NAME.fullmatch(match_name):
        raise agent(f"{path}.matchName", f'Invalid characters in MatchName: "{match_name}"')
    if len(match_pattern.strip()) > _MAX_FQDN:
        raise agent(f"{path}.matchPattern", f'Invalid MatchPattern: "{match_pattern}". Must be <= {_MAX_FQDN} characters long')
    if match_pattern and not _MATCH_PATTERN.fullmatch(match_pattern):
        raise agent(f"{path}.matchPattern", f'Invalid characters in MatchPattern: "{match_pattern}"')


@lru_cache(maxsize=1024)
def regex(pattern: str) -> Any:
    """The RE2 program of an HTTP pattern, or None if it does not compile."""
    try:
        return re2.compile(pattern, _QUIET)
    except (re2.error, UnicodeEncodeError):
        return None


def http_pattern(pattern: str, path: str) -> None:
    if pattern and regex(pattern) is None:
        raise agent(path, f"error parsing regexp: {pattern!r} is no valid RE2 expression")
