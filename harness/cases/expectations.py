"""An expectation as written becomes one as resolved: parties, request, what must decide. The text's grammar is in `grammar`."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from harness.cases.case import Action, Case, Expectation, FamilyChoice, Party, PartyKind, PolicyObject, Reason, Target
from harness.cases.document import Items, Node, Table, Text
from harness.cases.grammar import ANY, GrammarError, Sentence, SourceTerm, parse_sentence
from harness.cases.model import ExpectationModel
from harness.cases.names import HOST, REMOTE_NODE, Names
from harness.cases.policies import find_policy
from harness.cases.source import Place, Source
from harness.cases.suggest import did_you_mean
from harness.cases.traps import quoted
from harness.errors import HarnessError, Location
from harness.model.traffic import Family, Request, RequestKind
from harness.model.verdict import PolicyRef

GRPC_STATUS = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
)  # fmt: skip
"""gRPC status names by number (grpc/grpc doc/statuscodes.md)."""
_IN_A_POD = (PartyKind.ENDPOINT, PartyKind.SERVICE)


def names_of(case: Case) -> Names:
    """The names that expectations of a case may use."""
    return Names(case.namespace, case.endpoints, case.services, case.externals)


def parse_expectation(value: str | Mapping[str, Any], case: Case, policies: Sequence[PolicyObject], location: Location) -> Expectation:
    """An expectation given in Python: `"allow: a -> b:8080"`, or the mapping that a case file would hold. `policies` are those in force.

    Raises CaseError; its caret is below the text in the line of `location` where it stands there.
    """
    place = _python_place(value, location)
    if isinstance(value, str):
        match = re.match(r"\s*(?P<action>\w+)\s*:\s*(?P<text>.*\S)?\s*\Z", value, re.DOTALL)
        if not match or match["action"] not in set(Action):
            raise place.error("an expectation begins with `allow:`, `deny:` or `audit:`", hint="as in `allow: client -> server:8080`")
        start = match.start("text") if match["text"] else len(value)
        inner = place.at(place.line, place.column + start, len(match["text"] or ""))
        node: Node = _tree({match["action"]: match["text"] or ""}, inner)
    else:
        node = _tree(value, place)
    resolved = resolve_expectation(ExpectationModel.model_validate(node), names_of(case), [each.ref for each in policies])
    if len(resolved) > 1:
        raise place.error("`any` means other endpoints for each target: more than one expectation", hint="name the sources, or one target")
    return resolved[0]


def _python_place(value: object, location: Location) -> Place:
    text = value if isinstance(value, str) else next((str(each) for each in value.values()), "") if isinstance(value, Mapping) else ""
    line = linecache.getline(location.file, location.line).rstrip("\n")
    if text and text in line:
        return Place(Source(location.file, line, first_line=location.line), location.line, line.index(text) + 1, 0, 0).at(
            location.line, line.index(text) + 1, len(text)
        )
    return Place(Source(location.file, text, first_line=location.line), location.line, 1, 0, 0).at(location.line, 1, len(text))


def _tree(value: object, place: Place) -> Any:
    if isinstance(value, Mapping):
        table = Table((Text(str(key), place), _tree(each, place)) for key, each in value.items())
        table.place = place
        table.flow = False
        return table
    if isinstance(value, list | tuple | set | frozenset):
        items = Items(_tree(each, place) for each in value)
        items.place = place
        return items
    if isinstance(value, bool):
        return Text("true" if value else "false", place)
    return Text(str(value), place)


def resolve_expectation(
    model: ExpectationModel, names: Names, in_force: Iterable[PolicyRef], *, elsewhere: Mapping[PolicyRef, str] | None = None
) -> tuple[Expectation, ...]:
    """The expectation that a written one means; several where `any` differs by target. `elsewhere` as in `find_policy`."""
    action, text = model.statement
    _check_fields(model, action)
    sentence = _sentence(action, text)
    request = _request(model, sentence, text)
    status = _status(model, request)
    pairs = _parties(model, sentence, request, names, text)
    by = find_policy(model.by, in_force, where="in force in this phase", elsewhere=elsewhere) if model.by is not None else None
    return tuple(
        Expectation(
            action=action,
            text=str(text),
            sources=sources,
            targets=targets,
            location=text.location,
            request=request,
            reasons=model.reason,
            at=model.at,
            by=by,
            status=status,
            family=_family(model, sources, targets, request),
            timeout=model.timeout,
            within=model.within,
            undeclared=model.undeclared,
        )
        for sources, targets in pairs
    )


def _check_fields(model: ExpectationModel, action: Action) -> None:
    """What may stand beside which action."""
    table = model.table

    def error(key: str, message: str, hint: str) -> HarnessError:
        return table.key(key).error(message, hint=hint)

    if action is Action.ALLOW and model.reason:
        raise error("reason", "`reason` says why something is denied, and this is allowed", "remove it, or write `deny:`")
    if action is Action.ALLOW and model.at is not None and model.by is None:
        raise error("at", "`at` says which side drops, and this is allowed", "remove it; with `by` it says whose policy allows")
    if model.by is not None and model.reason == frozenset((Reason.DEFAULT_DENY,)):
        raise error("by", "`by` with reason default-deny: no policy decides then", "remove `by`, or expect reason deny-rule")
    if model.undeclared and action is not Action.DENY:
        raise error(
            "undeclared", f"`undeclared` goes with deny only: nobody answers there, so `{action}` could never be seen", "declare the port"
        )


def _sentence(action: Action, text: Text) -> Sentence:
    try:
        sentence = parse_sentence(text)
    except GrammarError as exc:
        raise _pointed(exc, action, text) from exc
    comment = _comment(text)
    if sentence.request is not None and sentence.request.path and comment and not comment[1:2].isspace():
        raise text.place.at(text.place.line, text.place.end_column + 1, len(comment)).error(
            f"YAML takes ` {comment}` for a comment", hint=f"quote this: {action}: {quoted(f'{text} {comment}')}, or put a blank after `#`"
        )
    return sentence


def _comment(text: Text) -> str:
    """The comment behind an unquoted text in its line, from `#` on."""
    if text.quoted or text.place.end_line != text.place.line:
        return ""
    match = re.match(r"\s+(#\S.*?|#.*)\s*\Z", text.place.source.line(text.place.line)[text.place.end_column - 1 :])
    return match[1] if match else ""


def _pointed(exc: GrammarError, action: Action, text: Text) -> HarnessError:
    hint = exc.hint
    comment = _comment(text)
    if comment and (exc.start + exc.length >= len(text) or not comment[1:2].isspace()):
        hint = f"YAML takes ` #` for a comment; if it belongs to the text, quote this: {action}: {quoted(f'{text} {comment}')}"
    return text.part(exc.start, exc.length).error(exc.message, hint=hint)


def _request(model: ExpectationModel, sentence: Sentence, text: Text) -> Request | None:
    request = sentence.request
    http = model.http
    if http is not None:
        if request is not None:
            raise model.table.key("http").error(f"the text has a request already (`{request}`)", hint="remove one of the two")
        path = http.path or "/"
        if not path.startswith("/") or re.search(r"\s", path):
            place = http.path.place if http.path is not None else http.place
            raise place.error(f"`{path}` is no path: it begins with `/` and has no blanks", hint="write a blank as %20")
        method = str(http.method or "GET")
        if not re.fullmatch(r"[A-Z][A-Z-]*", method):
            raise (http.method or text).error(f"`{method}` is no HTTP method", hint=f"did you mean `{method.upper()}`?")
        if http.headers and model.headers:
            raise model.table.key("headers").error("headers stand here twice: beside and in `http`", hint="remove one of the two")
        request = Request(RequestKind.HTTP, method, str(path), str(http.host or ""), http.headers)
    if model.headers is not None:
        if request is None or request.kind not in (RequestKind.HTTP, RequestKind.GRPC):
            raise model.table.key("headers").error("`headers` without an HTTP request", hint=f"add one to the text: `{text} GET /`")
        request = Request(request.kind, request.method, request.path, request.host, (*request.headers, *model.headers))
    return request


def _status(model: ExpectationModel, request: Request | None) -> int | str | None:
    status = model.status
    if status is None:
        return None
    place = model.table.place_of("status")
    if request is not None and request.kind not in (RequestKind.HTTP, RequestKind.GRPC):
        raise model.table.key("status").error(
            f"`status` does not go with `{request}`", hint="only HTTP and gRPC requests are answered with one"
        )
    if request is None:
        raise model.table.key("status").error(
            "`status` without a request", hint="add one to the text, as in `client -> server:8080 GET /path`"
        )
    if request.kind is RequestKind.GRPC:
        if isinstance(status, int):
            if not 0 <= status < len(GRPC_STATUS):
                hint = "PERMISSION_DENIED is 7; an HTTP code is not a gRPC status" if status >= 100 else None
                raise place.error(f"{status} is no gRPC status: 0 to {len(GRPC_STATUS) - 1}", hint=hint)
        elif status not in GRPC_STATUS:
            raise place.error(f"`{status}` is no gRPC status", hint=did_you_mean(status, GRPC_STATUS, noun="choose from"))
    elif not isinstance(status, int) or not 100 <= status <= 599:
        raise place.error(f"`{status}` is no HTTP status: 100 to 599")
    return status


_Sides = tuple[tuple[Party, ...], tuple[Target, ...]]


def _parties(model: ExpectationModel, sentence: Sentence, request: Request | None, names: Names, text: Text) -> list[_Sides]:
    try:
        any_source = _is_any(sentence.sources, names)
        any_target = _is_any(sentence.targets, names)
        if any_source and any_target and len(sentence.sources) == 1:
            return [_sides(model, sentence, request, names, endpoint) for endpoint in names.endpoints]
        together = _sides(model, sentence, request, names, None)
        # `any` leaves out the other side of each pair, not every target named beside it.
        return _target_by_target(model, sentence, request, names) if any_source and len(sentence.targets) > 1 else [together]
    except GrammarError as exc:
        raise _pointed(exc, model.statement[0], text) from exc


def _target_by_target(model: ExpectationModel, sentence: Sentence, request: Request | None, names: Names) -> list[_Sides]:
    """Each target with the sources that it has by itself; those with equal sources stay together."""
    by_sources: dict[tuple[Party, ...], list[Target]] = {}
    for term in sentence.targets:
        sources, targets = _sides(model, replace(sentence, targets=(term,)), request, names, None)
        by_sources.setdefault(sources, []).extend(targets)
    return [(sources, tuple(targets)) for sources, targets in by_sources.items()]


def _is_any(terms: Iterable[Any], names: Names) -> bool:
    return any(term.name == ANY and ANY not in names.endpoints for term in terms)


def _sides(model: ExpectationModel, sentence: Sentence, request: Request | None, names: Names, only_source: str | None) -> _Sides:
    """Both sides, resolved. `only_source` stands for `any` where it is on both sides."""
    source_terms = (SourceTerm(only_source, sentence.sources[0].span),) if only_source is not None else sentence.sources
    named_sources = frozenset(term.name for term in source_terms if term.name in names.endpoints)
    targets: dict[tuple[Party, int | None, object], Target] = {}
    for term in sentence.targets:
        for target in names.targets(term, request, named_sources, undeclared=model.undeclared):
            key = (target.party, target.port, target.protocol)
            if key in targets and term.name != ANY:
                raise GrammarError(f"`{term}` stands here twice", term.span.start, term.span.length, "remove one")
            targets.setdefault(key, target)
    others = _pods_of((target.party for target in targets.values()), names)
    sources: dict[Party, None] = {}
    for source_term in source_terms:
        for party in names.sources(source_term, others):
            if party in sources and source_term.name != ANY:
                raise GrammarError(f"`{source_term}` stands here twice", source_term.span.start, source_term.span.length, "remove one")
            sources[party] = None
            _check_pairs(party, source_term, targets.values(), names)
    return tuple(sources), tuple(targets.values())


def _pods_of(parties: Iterable[Party], names: Names) -> frozenset[str]:
    """The endpoints that a side is, backends of its services included."""
    found: set[str] = set()
    for party in parties:
        service = names.service_of(party)
        if service is not None:
            found.update(each.name for each in names.backends(service))
        elif party.kind is PartyKind.ENDPOINT:
            found.add(party.name)
    return frozenset(found)


def _check_pairs(source: Party, term: SourceTerm, targets: Iterable[Target], names: Names) -> None:
    """Policy needs a pod on one side at least; `host` and `remote-node` are seen from a pod."""
    if source.kind is PartyKind.ENDPOINT:
        return
    for target in targets:
        if target.party.kind in _IN_A_POD or names.service_of(target.party) is not None:
            continue
        node = {source.name, target.party.name} & {HOST, REMOTE_NODE}
        message = f"`{term}` -> `{target.written}`: neither side is a declared endpoint, so no policy is asked"
        if node:
            message = f"`{node.pop()}` is the node of a pod, and neither side is one"
        raise GrammarError(message, term.span.start, term.span.length, "one side must be an endpoint")


def _family(model: ExpectationModel, sources: Sequence[Party], targets: Sequence[Target], request: Request | None) -> FamilyChoice:
    """The family as written; else that of the addresses named, IPv4 where there are none."""
    written = model.family
    literals = [party.name for party in (*sources, *(target.party for target in targets)) if party.kind is PartyKind.ADDRESS]
    needed = {Family.of(each) for each in literals}
    if request is not None and request.kind in (RequestKind.ICMP, RequestKind.ICMP6):
        of_request = Family.IPV6 if request.kind is RequestKind.ICMP6 else Family.IPV4
        wanted = {of_request} if written is None else set(written.families)
        if wanted != {of_request} or needed - {of_request}:
            place = model.table.place_of("family") if written is not None else model.statement[1].place
            raise place.error(f"`{request}` is {of_request.value} only", hint="icmp is IPv4, icmp6 is IPv6: write two expectations")
        return FamilyChoice(of_request.value)
    if written is not None:
        missing = needed - set(written.families)
        if missing:
            raise model.table.place_of("family").error(
                f"the text names an {missing.pop().value} address", hint="remove `family`, or say `both`"
            )
        return written
    free = any(each.kind is not PartyKind.ADDRESS for each in sources) and any(each.party.kind is not PartyKind.ADDRESS for each in targets)
    families = needed | {Family.IPV4} if free else needed
    if len(families) == 2:
        return FamilyChoice.BOTH
    return FamilyChoice.IPV6 if families == {Family.IPV6} else FamilyChoice.IPV4
