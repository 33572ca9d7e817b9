"""The shell that is kept open in an agent's container: one exec for many questions, opened again where it broke."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from harness.clusters.kubernetes import shell as shell_module
from harness.clusters.kubernetes.capabilities import agent_pods
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.exec import Exec
from harness.clusters.kubernetes.shell import Shell
from harness.model.traffic import PodRef

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
CONTAINER = "cilium-agent"
pytestmark = [
    pytest.mark.skipif(not CONTEXT, reason="no cluster: `make test-kubernetes CONTEXT=...` runs these against a kubeconfig context"),
    pytest.mark.xdist_group("kubernetes"),
]


@pytest.fixture
def execs(monkeypatch) -> list[Exec]:
    """Every exec that is opened for a shell."""
    opened: list[Exec] = []

    class Told(Exec):
        def start(self) -> None:
            opened.append(self)
            super().start()

    monkeypatch.setattr(shell_module, "Exec", Told)
    return opened


@pytest.fixture(scope="module")
def api() -> Api:
    return Api.connect(CONTEXT)


@pytest.fixture
def shell(api) -> Iterator[Shell]:
    metadata = agent_pods(api)[0].metadata
    shell = Shell(api, PodRef(metadata.namespace, metadata.name), CONTAINER)
    yield shell
    shell.close()


def said(shell: Shell, question: str, within: float = 20.0) -> tuple[int | None, str, str]:
    output = shell.ask(question)(within)
    return output.exit.code, output.stdout.strip(), output.stderr.strip()


def test_one_exec_answers_all_questions_and_each_has_its_own_output_and_exit_code(shell, execs):
    assert said(shell, "printf 'no end of line'") == (0, "no end of line", "")
    assert said(shell, "echo one; echo two; (exit 3)") == (3, "one\ntwo", "")
    assert said(shell, "cat; echo \"it's 'quoted' \\$x\"") == (0, "it's 'quoted' $x", "")
    assert said(shell, "no-such-command")[0] == 127
    assert len(execs) == 1


def test_a_line_that_broke_is_opened_again_and_asked_again(shell, execs):
    assert said(shell, "echo one")[1] == "one"
    execs[0].close()
    execs[0].join(10.0)
    assert said(shell, "echo two")[1] == "two"
    assert said(shell, "[ -e /tmp/asked ] && rm /tmp/asked || { touch /tmp/asked; kill $$; }") == (0, "", "")
    assert len(execs) == 3


def test_a_line_that_nobody_answers_on_is_given_up_early_when_it_was_kept(shell, execs, monkeypatch):
    monkeypatch.setattr(shell_module, "_KEPT", 0.3)
    assert said(shell, "echo one")[1] == "one"
    assert said(shell, "[ -e /tmp/asked ] && rm /tmp/asked && echo again || { touch /tmp/asked; sleep 5; }")[:2] == (0, "again")
    assert len(execs) == 2


def test_what_keeps_it_from_opening_or_answering_is_told_and_the_next_question_opens_it(api, shell, execs):
    gone = Shell(api, PodRef("kube-system", "no-such-pod"), CONTAINER)
    output = gone.ask("echo one")(20.0)
    assert output.exit.code is None
    assert output.exit.why == 'no exec into kube-system/no-such-pod: pods "no-such-pod" not found'
    late = shell.ask("sleep 3")(0.2)
    assert (late.exit.code, late.exit.why) == (None, "no answer within 0.2 s")
    assert said(shell, "echo here")[1] == "here"
    assert len(execs) == 3
