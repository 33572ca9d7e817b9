"""The names of what is outside, told to the cluster's CoreDNS by its ConfigMap: several runs and workers at once, each change by the version that
it was made from, so that a foreign one is never lost. What the block looks like is `corefile`; only clusters of the harness's own have one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from kubernetes.client.exceptions import ApiException
from msgspec.structs import replace
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
    wait_random,
)

from harness.clusters.kubernetes.client import API_ERRORS, Api, translated
from harness.clusters.kubernetes.corefile import Entry, entries, with_entries
from harness.clusters.kubernetes.resolver import SELECTOR, Resolver
from harness.errors import ClusterError
from harness.model.traffic import Family

COREDNS = ("coredns", "kube-system")
"""The ConfigMap's name and namespace, as kubeadm and kind make it."""
KEY = "Corefile"
KNOWN_WITHIN = 120.0
"""Seconds: the first time, CoreDNS looks at its configuration every 30 to 45 s."""
_NUDGE = "policy-harness/names"
_CONFLICT = 409
_ABSENT = frozenset({403, 404})


class DnsEntries:
    """The names that one process's run needs, in one ConfigMap."""

    def __init__(self, api: Api, run: str, where: tuple[str, str] = COREDNS) -> None:
        self._api = api
        self._run = run
        self._where = where
        self._told: dict[str, Entry] = {}

    def tell(self, wanted: Iterable[Entry]) -> bool:
        """See to it that these names are there, for this run; False where this process had told all of them already. ClusterError
        for one that leads another run, or another process of this one, elsewhere."""
        mine = {each.name: _led(each) for each in wanted}
        fresh = {name: each for name, each in mine.items() if self._told.get(name) != each}
        if not fresh:
            return False
        changed = _change(self._api, self._where, lambda found: self._joined(found, fresh))
        self._told.update(fresh)
        if changed is not None:
            _nudge(self._api, self._where[1], changed)
        return True

    def _joined(self, found: Mapping[str, Entry], fresh: Mapping[str, Entry]) -> Mapping[str, Entry]:
        out = dict(found)
        now = int(time.time())
        for name, each in fresh.items():
            there = found.get(name)
            if there is None or (_led(there) != each and _led(there) == self._told.get(name)):
                out[name] = replace(each, runs=(self._run,), since=now)  # new, or this process's own for an earlier case
            elif _led(there) == each:
                out[name] = replace(there, runs=tuple(sorted({*there.runs, self._run})))
            else:
                raise ClusterError(
                    f"`{name}` leads to {', '.join(there.addresses)} for {there.ttl} s at the moment, for another case of run {', '.join(there.runs)}",
                    hint="run the two one after the other, or give the names different ones",
                )
        return out


def find(api: Api, where: tuple[str, str]) -> tuple[Entry, ...]:
    """The names that runs have told; none where this user may not look: then it is a cluster on which no run tells any."""
    try:
        held = api.core.read_namespaced_config_map(*where, _request_timeout=10)
    except ApiException as error:
        if error.status in _ABSENT:
            return ()
        raise
    return entries((held.data or {}).get(KEY, ""))


def forget(api: Api, runs: Iterable[str], where: tuple[str, str]) -> None:
    """Take out the names that only these runs needed. Nobody waits for it: what they led to is gone, or going."""
    gone = set(runs)

    def without(found: Mapping[str, Entry]) -> Mapping[str, Entry]:
        left = {key: replace(each, runs=tuple(run for run in each.runs if run not in gone)) for key, each in found.items()}
        return {key: each for key, each in left.items() if each.runs}

    _change(api, where, without)


def wait_known(api: Api, wanted: Mapping[str, frozenset[str]], *, within: float = KNOWN_WITHIN) -> None:
    """Until every DNS pod leads from each name to exactly its addresses. ClusterError after `within` seconds."""
    late: list[str] = []

    def unknown() -> bool:
        late[:] = _unknown(api, wanted)
        return bool(late)

    try:
        Retrying(retry=retry_if_result(bool), stop=stop_after_delay(within), wait=wait_fixed(0.5))(unknown)
    except RetryError:
        raise ClusterError(
            f"the cluster's DNS does not lead from `{late[0]}` to {', '.join(sorted(wanted[late[0]]))} within {within:g} s",
            hint=f"`kubectl -n {COREDNS[1]} logs -l k8s-app=kube-dns` says whether it read its configuration",
        ) from None


def _led(entry: Entry) -> Entry:
    """Where it leads, whoever needs that."""
    return replace(entry, runs=(), since=0)


def _unknown(api: Api, wanted: Mapping[str, frozenset[str]]) -> list[str]:
    resolver = Resolver.find(api)
    if resolver is None or not resolver.pods:
        return sorted(wanted)
    late = set()
    for family in Family:
        meant = {name: frozenset(each for each in found if Family.of(each) is family) for name, found in wanted.items()}
        try:
            said = resolver.ask(api, sorted(meant), family)
        except ClusterError:  # it is reading its configuration again
            return sorted(wanted)
        late |= {name for name in meant if any(each != meant[name] for each in said[name])}
    return sorted(late)


def _change(api: Api, where: tuple[str, str], change: Callable[[Mapping[str, Entry]], Mapping[str, Entry]]) -> str | None:
    """The Corefile after the change; None where it was so already. Begins again where somebody else changed it meanwhile."""
    with translated(f"the names of what is outside could not be told to the cluster's DNS (ConfigMap {where[1]}/{where[0]})"):
        for attempt in Retrying(
            retry=retry_if_exception(_lost_the_race), stop=stop_after_attempt(20), wait=wait_random(0, 0.2), reraise=True
        ):
            with attempt:
                held = api.core.read_namespaced_config_map(*where, _request_timeout=10)
                before = (held.data or {}).get(KEY, "")
                after = with_entries(before, change({each.name: each for each in entries(before)}).values())
                if after == before:
                    return None
                # With the version that was read: where there is another by now, the server refuses.
                api.core.replace_namespaced_config_map(*where, {**_body(api, held), "data": {**held.data, KEY: after}}, _request_timeout=10)
                return after
    raise AssertionError("it returns or raises")


def _body(api: Api, held: Any) -> dict[str, Any]:
    return dict(api.client.sanitize_for_serialization(held))


def _lost_the_race(error: BaseException) -> bool:
    return isinstance(error, ApiException) and error.status == _CONFLICT


def _nudge(api: Api, namespace: str, text: str) -> None:
    """Have the kubelets bring the file into the DNS pods now: they do when a pod's object changes, else within a minute or two. Where that is not
    allowed it is only slower."""
    mark = {"metadata": {"annotations": {_NUDGE: hashlib.sha256(text.encode()).hexdigest()[:12]}}}
    with suppress(*API_ERRORS):
        for pod in api.core.list_namespaced_pod(namespace, label_selector=SELECTOR, _request_timeout=10).items:
            api.core.patch_namespaced_pod(pod.metadata.name, namespace, mark, _request_timeout=10)
