"""What policy decides, and which policy and rule decided. Not what a test concludes: that is `engine`'s Outcome."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from harness.model.traffic import Direction


class PolicyRef(Struct, frozen=True, order=True):
    """A policy object; a clusterwide one has an empty namespace. Printed `Kind/namespace/name` (clusterwide: `Kind//name`)."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


class RuleRef(Struct, frozen=True, order=True):
    """One rule of a policy by its path in the object, such as `ingress[0]`, `specs[1].egressDeny[0]` or (KNP) `ingress[0].from[1]`.

    Rules that Cilium adds itself have the policy kind `reserved`, e.g. the host allow.
    """

    policy: PolicyRef
    path: str

    def __str__(self) -> str:
        return f"{self.policy} {self.path}"


class Decision(StrEnum):
    """The outcome of one direction."""

    ALLOW = "allow"
    DEFAULT_DENY = "default-deny"
    DENY_RULE = "deny-rule"
    AUTH = "auth"
    ERROR = "error"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "n/a"
    """No Cilium endpoint on this side, so nothing is enforced here."""

    @property
    def denies(self) -> bool:
        return self in _DENYING


_DENYING = (Decision.DEFAULT_DENY, Decision.DENY_RULE, Decision.AUTH)  # by name it would be looked up in the class each time


class L7Decision(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "n/a"


class Verdict(StrEnum):
    """Both directions and L7 together: any deny wins, then error, then unknown, else allow."""

    ALLOW = "allow"
    DENY = "deny"
    ERROR = "error"
    UNKNOWN = "unknown"


class DirectionVerdict(Struct, frozen=True, gc=False):
    """What one side decides. `rules` are those that decided: the matching allows, or the matching denies; empty for default
    deny and where nothing is enforced. `enforced` is false where no policy selects the subject in this direction.
    `selecting` are the policies that put the subject into default deny or otherwise select it in this direction."""

    decision: Decision
    rules: tuple[RuleRef, ...] = ()
    enforced: bool = False
    selecting: tuple[PolicyRef, ...] = ()
    l7: L7Decision = L7Decision.NOT_APPLICABLE
    redirected: bool = False
    """An L7 rule sends the connection to the proxy or the DNS proxy."""
    note: str = ""
    """For error and unknown: what is wrong or missing."""


class PolicyVerdict(Struct, frozen=True, gc=False):
    """The model's answer for one unit of traffic."""

    egress: DirectionVerdict
    ingress: DirectionVerdict

    @property
    def l7(self) -> L7Decision:
        if self.egress.l7 is self.ingress.l7:
            return self.egress.l7
        for wanted in (L7Decision.DENY, L7Decision.UNKNOWN, L7Decision.ALLOW):
            if wanted in (self.egress.l7, self.ingress.l7):
                return wanted
        return L7Decision.NOT_APPLICABLE

    @property
    def verdict(self) -> Verdict:
        egress, ingress = self.egress, self.ingress
        l7 = self.l7
        if egress.decision.denies or ingress.decision.denies or l7 is L7Decision.DENY:
            return Verdict.DENY
        sides = (egress.decision, ingress.decision)
        if Decision.ERROR in sides:
            return Verdict.ERROR
        if Decision.UNKNOWN in sides or l7 is L7Decision.UNKNOWN:
            return Verdict.UNKNOWN
        return Verdict.ALLOW

    @property
    def dropped_at(self) -> Direction | None:
        """The first side that denies: egress is asked before ingress."""
        if self.egress.decision.denies or self.egress.l7 is L7Decision.DENY:
            return Direction.EGRESS
        if self.ingress.decision.denies or self.ingress.l7 is L7Decision.DENY:
            return Direction.INGRESS
        return None


class PolicyStage(StrEnum):
    """Who refuses a policy: the API server by its schema, the agent (Valid=False), or the agent's decoder."""

    SCHEMA = "schema"
    AGENT = "agent"
    DECODE = "decode"


class PolicyError(Struct, frozen=True):
    """Why a policy is refused. Nothing of it is enforced (an earlier accepted version stays)."""

    stage: PolicyStage
    message: str
    path: str = ""
    """Where in the object, such as `spec.ingress[0].toPorts[0].ports[0].port`."""

    def __str__(self) -> str:
        return f"{self.stage.value}: {self.message}"


class PolicyStatus(Struct, frozen=True):
    """How a policy stands in a cluster.

    `error`: refused. `selects`: what it selects there (`ns/pod` or node names). `inert` says why it does nothing at all, else ''.
    `idle`: one line for each of its deny rules that denies nobody there, where the policy as a whole does something.
    """

    ref: PolicyRef
    error: PolicyError | None = None
    selects: tuple[str, ...] = ()
    inert: str = ""
    idle: tuple[str, ...] = ()
