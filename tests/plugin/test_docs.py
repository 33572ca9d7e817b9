"""docs/python-tests.md tells the truth: its examples pass."""

from __future__ import annotations

import re
from pathlib import Path

from harness.plugin.options import OPTIONS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_examples_pass_as_they_stand(suite):
    text = (DOCS / "python-tests.md").read_text()
    blocks = re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["test_backend.py", "backend.yaml", "test_ports.py", "cases/test_shop.yaml"]
    for name, body in blocks:
        suite.write(body, name)
    suite.run("test_backend.py", "test_ports.py").assert_outcomes(passed=3)


def test_every_call_and_every_option_is_described():
    from harness.plugin.fixture import Connectivity

    calls = {name for name in vars(Connectivity) if not name.startswith("_")} - {"release"}
    described = set(re.findall(r"^\| `(\w+)", (DOCS / "python-tests.md").read_text(), re.MULTILINE)) - {"connectivity", "cluster"}
    assert described == calls
    running = (DOCS / "running.md").read_text()
    assert [option.name for option in OPTIONS if f"| `--{option.name}` | `{option.dest}` | `{option.variable}` |" not in running] == []
