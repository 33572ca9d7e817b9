"""The connection to a cluster's API server: one configuration, an API client for each thread and one for each stream (the official
client is safe for neither). Says in one sentence what an API error means."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException, OpenApiException
from websocket import WebSocketException

from harness.clusters.kubernetes.kubeconfig import load
from harness.errors import ClusterError

CONNECT_TIMEOUT = 5.0
REQUEST_TIMEOUT = 30.0
"""Seconds that a request may take where nothing else is said."""
API_ERRORS = (OpenApiException, urllib3.exceptions.HTTPError, WebSocketException, OSError)
"""Everything that the client raises for what the API server said, or for what became of it on the way (TLS is an OSError)."""
_OBJECTS = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>:\s*|HTTPS?Connection(?:Pool)?\([^)]*\):\s*")
"""How urllib3 names the connection; the sentence around it says to whom it was."""
_BEFORE_BODY = " -+-+- "
"""What websocket puts between the status, the headers and the body of an answer that opened no stream."""


class Api:
    """A cluster by its kubeconfig context. Every method may be called from any thread."""

    def __init__(self, configuration: Any, context: str) -> None:
        self._configuration = configuration
        self.context = context
        self._local = threading.local()

    @classmethod
    def connect(cls, context: str | None = None, kubeconfig: str = "") -> Api:
        """Read the kubeconfig and ask the server for its version. ClusterError if there is no such context, or nothing answers."""
        configuration, name = load(context, kubeconfig)
        api = cls(configuration, name)
        try:
            kubernetes.client.VersionApi(api.client).get_code(_request_timeout=CONNECT_TIMEOUT)
        except API_ERRORS as error:
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
    """What an error of the API server, or on the way to it, says to a person: one line."""
    if isinstance(error, ApiException):
        body: Any = None
        try:
            body = json.loads(error.body) if error.body else None
        except (TypeError, ValueError):
            return _line(f"{error.status} {error.reason}: {error.body!s:.500}")
        message = body.get("message") if isinstance(body, dict) else _refused(str(error.reason))
        return _line(str(message or (f"{error.status} {error.reason}" if error.status else error.reason)))
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return said(reason)
    if isinstance(error, urllib3.exceptions.ProtocolError) and len(error.args) == 2:
        return _line(f"{error.args[0]!s:.200} {error.args[1]!s:.300}")
    return _line(str(error)) or type(error).__name__


def _refused(reason: str) -> str | None:
    """The message of the Status that the server answered instead of opening a stream; None where it said nothing of the kind."""
    try:
        return str(json.loads(reason.rpartition(_BEFORE_BODY)[2])["message"])
    except (ValueError, TypeError, KeyError):
        return None


def _line(text: str) -> str:
    return " ".join(_OBJECTS.sub("", text).split())


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Whatever the client raises inside becomes a ClusterError: what was being done, and why it did not work."""
    try:
        yield
    except API_ERRORS as error:
        raise failure(what, error) from error


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
