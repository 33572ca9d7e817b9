"""What travels between a lab's keeper and those who ask."""

from __future__ import annotations

import json

import pytest

import harness
from harness.errors import CaseError, ClusterError, HarnessError, Location, UsageError
from harness.lab import calls


def test_a_call_arrives_as_it_was_made() -> None:
    made = calls.Request("apply", {"policies": [{"document": {"spec": None}}]})
    assert calls.read_request(made.line()) == made
    assert made.line().count(b"\n") == 1


@pytest.mark.parametrize("line", [b"", b"x\n", b"[]\n", b'{"call": "about"}\n', b'{"call": "about", "arguments": 3, "version": "1"}\n'])
def test_what_is_no_call_is_refused(line: bytes) -> None:
    with pytest.raises(UsageError, match="not a call to a lab"):
        calls.read_request(line)


def test_another_version_may_only_look_and_end() -> None:
    def of_another(name: str) -> bytes:
        return json.dumps({**json.loads(calls.Request(name, {}).line()), "version": "0.0.1"}).encode()

    assert calls.read_request(of_another("down")).call == "down"
    assert calls.read_request(of_another("about")).call == "about"
    with pytest.raises(UsageError, match=rf"started by harness {harness.__version__}, and this is harness 0\.0\.1") as caught:
        calls.read_request(of_another("apply"))
    assert "harness lab down" in str(caught.value.hint)


@pytest.mark.parametrize(
    "error",
    [
        ClusterError("broke", hint="do this"),
        UsageError("wrong"),
        CaseError("there", location=Location("f.yaml", 3, 5, 2), source_line="  a: b"),
    ],
)
def test_an_error_is_raised_again_as_it_was(error: HarnessError) -> None:
    with pytest.raises(type(error)) as caught:
        calls.read_answer(calls.refusal(error))
    assert str(caught.value) == str(error)


def test_an_answer_is_its_value() -> None:
    assert calls.read_answer(calls.answer({"a": [1, None]})) == {"a": [1, None]}
