from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.cases.load import find_case_files
from harness.cases.schema import SCHEMA_FILE, rendered, schema

SUITES = Path(__file__).parents[2] / "suites"
VALIDATOR = jsonschema.Draft202012Validator(schema())
MINIMAL = {"case": "x", "endpoints": {"a": {}, "b": {"ports": [80]}}, "phases": {"p": [{"allow": "a -> b:80"}]}}


def test_the_file_for_editors_is_up_to_date():
    assert SCHEMA_FILE.read_text(encoding="utf-8") == rendered(), "run: python -m harness.cases.schema > harness/cases/schema.json"


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(schema())


def shipped() -> list[Any]:
    return [document for file in find_case_files(SUITES) for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def test_the_shipped_cases_follow_it():
    cases = shipped()
    assert len(cases) >= 25
    for case in cases:
        VALIDATOR.validate(case)


def test_shipped_cases_tell_editors_where_it_is():
    for file in find_case_files(SUITES):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        prefix = "# yaml-language-server: $schema="
        assert first.startswith(prefix), file
        assert (file.parent / first.removeprefix(prefix)).resolve() == SCHEMA_FILE.resolve(), file


@pytest.mark.parametrize(
    "wrong",
    [
        {**MINIMAL, "endpoint": {}},
        {**MINIMAL, "endpoints": {"A_B": {"replicas": 0}}},
        {**MINIMAL, "endpoints": {"a": {"ports": [70000]}}},
        {**MINIMAL, "endpoints": {"a": {"ports": [{"port": 80, "protocol": "udp"}]}}},
        {**MINIMAL, "services": {"s": {"ports": [80]}}},
        {**MINIMAL, "requires": {"features": ["l7"]}},
        {**MINIMAL, "requires": {"cilium": 1.16}},
        {**MINIMAL, "phases": {}},
        {**MINIMAL, "phases": {"p": []}},
        {**MINIMAL, "phases": {"p": [{"allow": "a b"}]}},
        {**MINIMAL, "phases": {"p": [{"allow": "a -> b:80", "deny": "a -> b:80"}]}},
        {**MINIMAL, "phases": {"p": [{"reason": "l7"}]}},
        {**MINIMAL, "phases": {"p": {"expect": [{"deny": "a -> b:80", "reason": "because"}]}}},
        {**MINIMAL, "phases": {"p": {"otherwise": "audit"}}},
        {**MINIMAL, "phases": {"p": {"policies": ["text"]}}},
        {"phases": MINIMAL["phases"]},
    ],
)
def test_it_refuses_what_the_loader_refuses(wrong: dict[str, Any]):
    VALIDATOR.validate(MINIMAL)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(wrong)


@given(st.sampled_from(shipped()), st.data())
def test_it_refuses_an_unknown_key_anywhere(case: Any, data: st.DataObject):
    holders = [case, *case["endpoints"].values(), *case.get("services", {}).values()]
    holders += [each for each in case["phases"].values() if isinstance(each, dict)]
    holders += [each for phase in case["phases"].values() for each in (phase if isinstance(phase, list) else phase.get("expect", []))]
    holder = data.draw(st.sampled_from([each for each in holders if isinstance(each, dict)]))
    holder["surprise"] = 1
    try:
        assert not VALIDATOR.is_valid(case)
    finally:
        del holder["surprise"]


def test_every_key_is_described():
    found = schema()
    for model in [found, *found["$defs"].values()]:
        assert model["description"]
        for name, each in model.get("properties", {}).items():
            assert each.get("description"), name
