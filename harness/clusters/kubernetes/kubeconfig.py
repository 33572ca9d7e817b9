"""The kubeconfig: which contexts there are, and how to connect to one (exec plugins, proxies and several files included). Connects to nothing."""

from __future__ import annotations

import os
from typing import Any

import kubernetes
import urllib3
import yaml
from kubernetes.config.config_exception import ConfigException

from harness.cases.suggest import closest
from harness.errors import ClusterError

_LISTED = 12


def load(context: str | None = None, kubeconfig: str = "") -> tuple[Any, str]:
    """The client's configuration for a context and the context's name; None for the current one. `kubeconfig` is a file; '' for the user's
    own (KUBECONFIG, or kubectl's default). ClusterError for a file that cannot be
    read, a context that is not in it, or a credential plugin that gave nothing."""
    file = kubeconfig or os.environ.get("KUBECONFIG") or None
    where = file or "~/.kube/config"
    configuration = kubernetes.client.Configuration()
    try:
        contexts, active = kubernetes.config.list_kube_config_contexts(config_file=file)
        known = tuple(str(each["name"]) for each in contexts)
        name = context or str(active["name"])
        if name not in known:
            raise ClusterError(f"the kubeconfig ({where}) has no context {name!r}", hint=_which(name, known))
        kubernetes.config.load_kube_config(config_file=file, context=name, client_configuration=configuration)
    except (ConfigException, OSError, TypeError, KeyError, AttributeError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ClusterError(
            f"no usable kubeconfig ({where}): {said}",
            hint="set KUBECONFIG to a file that `kubectl` works with, and --kube-context to one of its contexts",
        ) from None
    _check_plugin(file, name, configuration)
    # A Retry-After makes the client sleep without a word; whoever waits here waits with a deadline of their own.
    configuration.retries = urllib3.Retry(total=2, backoff_factor=0.1, respect_retry_after_header=False, status=0)
    return configuration, name


def _which(name: str, known: tuple[str, ...]) -> str:
    near = closest(name, known)
    listed = ", ".join(known[:_LISTED]) + (f" and {len(known) - _LISTED} more" if len(known) > _LISTED else "")
    return (f"did you mean `{near}`? " if near else "") + (f"its contexts: {listed}" if known else "it has no context at all")


def _check_plugin(file: str | None, name: str, configuration: Any) -> None:
    """The client goes on without credentials where a plugin failed, and everything would be refused for the wrong reason."""
    contexts, _ = kubernetes.config.list_kube_config_contexts(config_file=file)
    user = next((each["context"].get("user") for each in contexts if each["name"] == name), None)
    merged = kubernetes.config.kube_config.KubeConfigMerger(file or kubernetes.config.KUBE_CONFIG_DEFAULT_LOCATION).config
    users = (each.value for each in merged.value.get("users") or ()) if merged is not None else ()
    plugin = next(((each.get("user") or {}).get("exec") for each in users if each.get("name") == user), None)
    if plugin and not configuration.api_key and not configuration.cert_file:
        command = " ".join([str(plugin.get("command", "")), *map(str, plugin.get("args") or ())])
        raise ClusterError(
            f"the kubeconfig's credential plugin gave no credentials for context {name!r}: {command}",
            hint="run that command, or `kubectl --context " + name + " version`, and see what it says",
        )
