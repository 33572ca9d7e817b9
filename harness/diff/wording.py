"""What a change says for people: judgements and L7 rules in words."""

from __future__ import annotations

from harness.diff.compare import Change
from harness.diff.judgement import Judgement, Proxy
from harness.policy.reach import Reach
from harness.policy.rules import HTTPRule, Mismatch

_PLAIN = {
    Reach.ALLOW: "allowed",
    Reach.UNKNOWN: "not known",
    Reach.ERROR: "rules in conflict, no policy can be made",
    Reach.DENY: "denied",
}


def judgement_text(judgement: Judgement) -> str:
    """`allowed`, `denied`, `only GET /x`."""
    if judgement.unauthenticated:
        return "denied without mutual authentication"
    if judgement.reach is not Reach.CONDITIONAL:
        return _PLAIN[judgement.reach]
    parts = list(dict.fromkeys(map(_proxy_text, judgement.proxies)))
    if len(parts) == 1:
        return parts[0]
    return "; ".join(f"{each.direction.value} {_proxy_text(each)}" for each in judgement.proxies)


def transition(change: Change) -> str:
    """What there is to say beside allowed and denied: '' where that is all."""
    plain = (Judgement(Reach.ALLOW), Judgement(Reach.DENY))
    if change.old in plain and change.new in plain:
        return ""
    if change.old == Judgement(Reach.DENY):
        return judgement_text(change.new)
    return f"{judgement_text(change.new)} (was: {judgement_text(change.old)})"


def _proxy_text(proxy: Proxy) -> str:
    rules = proxy.rules
    if rules.everything:
        return "every DNS lookup" if proxy.kind == "dns" else "every request, through a proxy"
    said = [*map(http_text, rules.http), *(f"TLS {each}" for each in rules.server_names)]
    said += [f"lookup {each.match_name or each.match_pattern}" for each in rules.dns]
    said += [rules.beyond] if rules.beyond else []
    return f"only {' or '.join(said)}" if said else f"no {proxy.kind.upper()} request"


def http_text(rule: HTTPRule) -> str:
    """`GET /path`, with host and headers behind."""
    conditions = [f"host {rule.host}"] if rule.host else []
    conditions += [f"header {each}" for each in rule.headers]
    for each in rule.header_matches:
        value = f"secret {each.secret}" if each.secret else each.value
        named = f"header {each.name}{f': {value}' if value else ''}"
        conditions.append(named if each.mismatch is Mismatch.FAIL else f"{named} (else {each.mismatch.value})")
    first = " ".join(filter(None, (rule.method, rule.path))) or "any HTTP request"
    return " with ".join(filter(None, (first, ", ".join(conditions))))
