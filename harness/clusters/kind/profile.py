"""A profile: Helm values of Cilium's chart, as a file, and what follows from them for the cluster below. Not the installation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

import harness
from harness.cases.suggest import did_you_mean
from harness.errors import UsageError

DEFAULT_PROFILE = "default"
_FOLDER = Path("ci") / "profiles"


class Profile(Struct, frozen=True):
    """Values by their file. `name` is what a user calls it."""

    name: str
    path: Path
    values: Mapping[str, Any]

    @classmethod
    def find(cls, name: str) -> Profile:
        """A name is a file in ci/profiles, of the folder that one is in or else of the harness; what has a suffix is a path. Raises `UsageError`."""
        if name.endswith((".yaml", ".yml")):
            return cls._read(Path(name).stem, Path(name))
        known = {path.stem: path for folder in reversed(_folders()) for path in sorted(folder.glob("*.yaml"))}
        if name not in known:
            hint = did_you_mean(name, tuple(known)) if known else "there is no ci/profiles folder here"
            raise UsageError(f"unknown profile {name!r}", hint=f"{hint} (or name a file of Helm values, such as mine.yaml)")
        return cls._read(name, known[name])

    @classmethod
    def _read(cls, name: str, path: Path) -> Profile:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"the profile {path} cannot be read: {error.strerror}", hint="name a file of Helm values") from None
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"the profile {path} is no YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise UsageError(f"the profile {path} holds no Helm values", hint="write what `helm show values cilium/cilium` lists")
        return cls(name, path.resolve(), values)

    # What follows from it

    @property
    def dual_stack(self) -> bool:
        return self.value("ipv6.enabled") is True

    @property
    def replaces_kube_proxy(self) -> bool:
        return str(self.value("kubeProxyReplacement")).lower() in ("true", "strict")

    @property
    def needs_ipsec_keys(self) -> str:
        """The secret that must be there before the agents start; '' for none."""
        if self.value("encryption.enabled") is True and self.value("encryption.type") == "ipsec":
            return str(self.value("encryption.ipsec.secretName") or "cilium-ipsec-keys")
        return ""

    @property
    def has_relay(self) -> bool:
        return self.value("hubble.relay.enabled") is True

    def value(self, path: str) -> Any:
        """What a dotted path leads to; None for nothing."""
        found: Any = self.values
        for key in path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def settings(self, name: str) -> Iterator[str]:
        """Values that depend on the cluster's name, as `--set` takes them: without kube-proxy, agents must know where the API server is."""
        if self.replaces_kube_proxy and not self.value("k8sServiceHost"):
            yield f"k8sServiceHost={name}-control-plane"
            yield "k8sServicePort=6443"


def checkout_file(relative: str | Path) -> Path | None:
    """A file or folder of the project: of the folder that one is in, else of the harness's own; None where neither has it."""
    return next((path for base in (Path.cwd(), Path(harness.__file__).parents[1]) if (path := base / relative).exists()), None)


def _folders() -> list[Path]:
    bases = dict.fromkeys((Path.cwd(), Path(harness.__file__).parents[1]))
    return [folder for base in bases if (folder := base / _FOLDER).is_dir()]
