"""The JSON Schema of case files, for editors. `python -m harness.cases.schema` prints it; schema.json beside this file is its copy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from harness.cases.model import EXPECTATION, CaseModel

SCHEMA_FILE = Path(__file__).with_name("schema.json")
_REPOSITORY_PATH = "harness/cases/schema.json"


def schema() -> dict[str, Any]:
    """The schema of one document of a case file (JSON Schema 2020-12)."""
    made: dict[str, Any] = CaseModel.model_json_schema(by_alias=True)
    tidy: dict[str, Any] = _tidy(made)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"Made from harness/cases/model.py by `python -m harness.cases.schema > {_REPOSITORY_PATH}`; do not edit.",
        **tidy,
    }


def _tidy(node: Any) -> Any:
    """Without pydantic's titles and null branches, which say nothing to who writes YAML; with the references filled in."""
    if isinstance(node, list):
        return [_tidy(each) for each in node]
    if not isinstance(node, dict):
        return node
    if node == {"title": EXPECTATION}:
        return {"$ref": f"#/$defs/{EXPECTATION}"}
    result = {key: _tidy(value) for key, value in node.items() if key not in {"title", "default"}}
    if "patternProperties" in result:
        result["additionalProperties"] = False
    branches = result.get("anyOf")
    if isinstance(branches, list) and {"type": "null"} in branches and "default" in node and node["default"] is None:
        rest = [each for each in branches if each != {"type": "null"}]
        result.pop("anyOf")
        result = {**result, **rest[0]} if len(rest) == 1 else {**result, "anyOf": rest}
    return result


def rendered() -> str:
    """The schema as text, as schema.json holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(rendered())
