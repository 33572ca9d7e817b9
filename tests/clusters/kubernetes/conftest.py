"""A kubeconfig of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml


@pytest.fixture
def kubeconfig(tmp_path, monkeypatch) -> Callable[..., None]:
    """Writes one with the contexts `staging` (the current one) and `production`, and points KUBECONFIG there."""
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))

    def write(server: str = "http://127.0.0.1:1", **user: object) -> None:
        contexts = [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in ("staging", "production")]
        path.write_text(
            yaml.safe_dump({
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "staging",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": user}],
                "contexts": contexts,
            })
        )

    return write
