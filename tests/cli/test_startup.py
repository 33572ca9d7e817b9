"""What a question costs before it is answered: the modules that its process imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"cryptography", "grpc", "jinja2", "kubernetes", "numpy", "pydantic", "pytest", "rich"}
"""None of them has a part in one question; each takes a tenth of a second or more to import."""
NEEDLESS = {"harness.cases.case", "harness.cases.model", "harness.cases.traps", "harness.policy.reach", "harness.policy.scenario"}
"""Nor have these a part in it: cases, what is said of text that is no YAML, whole tables, streams."""
POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: open, namespace: a}
spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: "80"}]}]}]}
"""
PODS = """\
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: Pod, metadata: {name: x, namespace: a, labels: {app: x}}}
  - {apiVersion: v1, kind: Pod, metadata: {name: web, namespace: a, labels: {app: web}}}
"""


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_a_question_imports_nothing_heavy(tmp_path: Path, command: str) -> None:
    (tmp_path / "policies.yaml").write_text(POLICY)
    (tmp_path / "pods.yaml").write_text(PODS)
    files = [str(tmp_path / "policies.yaml")] if command == "predict" else ["-f", str(tmp_path / "policies.yaml")]
    words = [sys.executable, "-X", "importtime", "-m", "harness", command, *files, "-f", str(tmp_path / "pods.yaml"), "a/x -> a/web:80"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    modules = set(re.findall(r"^import time:.*\|\s+([\w.]+)", done.stderr, re.MULTILINE))
    imported = {each.partition(".")[0] for each in modules}
    assert done.returncode == 0, done.stdout
    assert "allow" in done.stdout
    assert {"click", "harness", "yaml"} <= imported, "the list of modules could not be read"
    assert not imported & HEAVY
    assert not modules & NEEDLESS
