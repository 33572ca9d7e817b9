"""The connection to a cluster's API server: one configuration, an API client for each thread and one for each stream (the official
client is safe for neither). Says in one sentence what an API error means."""

from __future__ import annotations

import json
import threading
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from harness.cases.suggest import did_you_mean
from harness.errors import ClusterError

CONNECT_TIMEOUT = 5.0
REQUEST_TIMEOUT = 30.0
"""Seconds that a request may take where nothing else is said."""


class Api:
    """A cluster by its kubeconfig context. Every method may be called from any thread."""

    def __init__(self, configuration: Any, context: str) -> None:
        self._configuration = configuration
        self.context = context
        self._local = threading.local()

    @classmethod
    def connect(cls, context: str | None = None) -> Api:
        """Read the kubeconfig (KUBECONFIG, exec plugins and proxies included) and ask the server for its version. ClusterError if there
        is no such context, or nothing answers."""
        configuration = kubernetes.client.Configuration()
        try:
            contexts, active = kubernetes.config.list_kube_config_contexts()
            known = tuple(str(each["name"]) for each in contexts)
            name = context or str(active["name"])
            if name not in known:
                raise ClusterError(f"the kubeconfig has no context {name!r}", hint=did_you_mean(name, known, noun="its contexts"))
            kubernetes.config.load_kube_config(context=name, client_configuration=configuration)
        except (ConfigException, OSError, TypeError, KeyError) as error:
            raise ClusterError(
                f"no usable kubeconfig: {error}",
                hint="set KUBECONFIG to a file that `kubectl` works with, and --kube-context to one of its contexts",
            ) from None
        # A Retry-After makes the client sleep without a word; whoever waits here waits with a deadline of their own.
        configuration.retries = urllib3.Retry(total=2, backoff_factor=0.1, respect_retry_after_header=False, status=0)
        api = cls(configuration, name)
        try:
            kubernetes.client.VersionApi(api.client).get_code(_request_timeout=CONNECT_TIMEOUT)
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(
                f"the API server of context {name!r} ({configuration.host}) does not answer: {said(error)}",
                hint="does `kubectl --context " + name + " version` work?",
            ) from None
        return api

    @property
    def client(self) -> Any:
        """This thread's API client, for everything but streams."""
        client = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = kubernetes.client.ApiClient(self._configuration)
        return client

    @property
    def core(self) -> Any:
        return kubernetes.client.CoreV1Api(self.client)

    @property
    def objects(self) -> Any:
        """Objects of any API group, as plain data."""
        return kubernetes.client.CustomObjectsApi(self.client)

    def streaming(self) -> Any:
        """A core API for one exec or port-forward: while it runs, no other call may use its client."""
        return kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(self._configuration))


def said(error: BaseException) -> str:
    """What an error of the API server, or on the way to it, says to a person."""
    if isinstance(error, ApiException):
        body: Any = None
        try:
            body = json.loads(error.body) if error.body else None
        except (TypeError, ValueError):
            return f"{error.status} {error.reason}: {error.body!s:.500}"
        message = body.get("message") if isinstance(body, dict) else None
        return str(message or f"{error.status} {error.reason}")
    reason = getattr(error, "reason", None)
    return str(reason or error) or type(error).__name__


def failure(what: str, error: BaseException) -> ClusterError:
    """An API error as the harness's own: what was to be done, and what the server said."""
    hint = None
    if isinstance(error, ApiException) and error.status == 403:
        hint = "the kubeconfig's user may not do that: docs/rbac/ has the roles that a run needs"
    return ClusterError(f"{what}: {said(error)}", hint=hint)


def addresses(holder: Any, kind: str) -> list[Any]:
    """`podIPs` of a pod's status or `clusterIPs` of a service: releases of the client spell these two differently."""
    found = getattr(holder, f"{kind}_ips", None) or getattr(holder, f"{kind}_i_ps", None)
    return list(found or ())
