"""What a user wishes for the test pods: image, pull secrets, tolerations, node selector; read from an option's text. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from harness.cases.suggest import did_you_mean
from harness.errors import UsageError

DEFAULT_IMAGE = "python:3.13-alpine"
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-\w.]*[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-\w.]*[A-Za-z0-9])?)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class Toleration(Struct, frozen=True):
    """Of which taints it takes no notice. `value` None: whatever the taint's value; `effect` '': whatever its effect."""

    key: str
    value: str | None = None
    effect: str = ""

    def covers(self, taint: Any) -> bool:
        """Whether a node's taint (as the API client has it) keeps no pod away that has this."""
        return (
            taint.key == self.key
            and (self.value is None or (taint.value or "") == self.value)
            and (not self.effect or taint.effect == self.effect)
        )

    def manifest(self) -> Mapping[str, str]:
        how = {"operator": "Exists"} if self.value is None else {"operator": "Equal", "value": self.value}
        return {"key": self.key, **how, **({"effect": self.effect} if self.effect else {})}


class PullSecret(Struct, frozen=True):
    """A secret that the image is pulled with. It is copied from `namespace` to those of the run; '': somebody else puts it there."""

    name: str
    namespace: str = ""


class PodOptions(Struct, frozen=True):
    """What a user may say about the pods."""

    image: str = DEFAULT_IMAGE
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[PullSecret, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    node_selector: tuple[tuple[str, str], ...] = ()


def pull_policy(text: str) -> str:
    """Raises `UsageError` for what Kubernetes does not know."""
    if text not in PULL_POLICIES:
        raise UsageError(f"unknown pull policy {text!r}", hint=f"{did_you_mean(text, PULL_POLICIES)} (one of {', '.join(PULL_POLICIES)})")
    return text


def pull_secrets(text: str) -> tuple[PullSecret, ...]:
    """`NAME` or `NAMESPACE/NAME`, with commas between several. Raises `UsageError`."""
    found = []
    for each in _items(text):
        namespace, slash, name = each.rpartition("/")
        if not _NAME.fullmatch(name) or (slash and not _NAME.fullmatch(namespace)):
            raise UsageError(
                f"{each!r} names no secret", hint="NAMESPACE/NAME copies one to the run's namespaces, NAME takes what is there"
            )
        found.append(PullSecret(name, namespace))
    return tuple(found)


def tolerations(text: str) -> tuple[Toleration, ...]:
    """`KEY[=VALUE][:EFFECT]` as `kubectl taint` writes them, with commas between several. Raises `UsageError`."""
    found = []
    for each in _items(text):
        taint, colon, effect = each.partition(":")
        key, equals, value = taint.partition("=")
        if not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            raise UsageError(f"{each!r} is no toleration", hint="KEY=VALUE:EFFECT, KEY:EFFECT or KEY, such as dedicated=tests:NoSchedule")
        if colon and effect not in EFFECTS:
            raise UsageError(f"{each!r}: unknown effect {effect!r}", hint=f"{did_you_mean(effect, EFFECTS)} (one of {', '.join(EFFECTS)})")
        found.append(Toleration(key, value if equals else None, effect))
    return tuple(found)


def node_selector(text: str) -> tuple[tuple[str, str], ...]:
    """`KEY=VALUE`, with commas between several. Raises `UsageError`."""
    found = []
    for each in _items(text):
        key, equals, value = each.partition("=")
        if not equals or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            raise UsageError(f"{each!r} selects no node", hint="KEY=VALUE of a node's label, such as kubernetes.io/os=linux")
        found.append((key, value))
    return tuple(found)


def _items(text: str) -> Iterator[str]:
    return (each.strip() for each in text.split(",") if each.strip())
