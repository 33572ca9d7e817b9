"""The recorded vectors: reading them, and asking the model the same questions."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct

HERE = Path(__file__).parent
VERSIONS = ("1.19", "1.20")


class Vector(Struct, frozen=True):
    """One scenario with what Cilium's engine answered for one version."""

    id: str
    document: dict[str, Any]
    policy_errors: dict[str, str]
    """Policy to the stage that refused it."""
    verdicts: tuple[dict[str, str], ...]


def read(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(HERE / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def stages(errors: dict[str, str]) -> dict[str, str]:
    return {policy: text.partition(":")[0] for policy, text in errors.items()}


def scenarios(version: str) -> Iterator[Vector]:
    for line in read("scenarios"):
        verdicts = [dict(each) for each in line["verdicts"]]
        errors = line["policy_errors"]
        if version == "1.20":
            differs = line.get("v120", {})
            for flow, direction, verdict in differs.get("flows", ()):
                verdicts[flow][direction] = verdict
            errors = differs.get("policy_errors", errors)
        yield Vector(line["id"], _question(line, version), stages(errors), tuple(verdicts))


def spec_cases(version: str) -> Iterator[Vector]:
    for line in read("spec_cases"):
        answer = line["v" + version.replace(".", "")]
        yield Vector(line["id"], _question(line, version), stages(answer["policy_errors"]), tuple(answer["verdicts"]))


def _question(line: dict[str, Any], version: str) -> dict[str, Any]:
    keys = ("id", "namespaces", "pods", "externals", "policies", "enforcement", "flows")
    return {key: line[key] for key in keys if key in line} | {"options": {"cilium": version}}


@cache
def engine_faults() -> dict[str, str]:
    """`version/id/flow/direction` to the reason why the engine is wrong there."""
    return json.loads((HERE / "engine_faults.json").read_text(encoding="utf-8"))
