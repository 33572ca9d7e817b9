"""Ctrl-C or SIGTERM more than once: the first ends the run, the next leave its cleaning alone, and a patient third ends the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import os, signal, sys, time
    from harness.plugin.interrupt import Interrupts

    def press(): os.kill(os.getpid(), signal.{number})
    interrupts = Interrupts(speaks=True)
    assert interrupts.install()
    {body}
"""


def program(body: str, number: str = "SIGINT") -> subprocess.CompletedProcess[str]:
    text = textwrap.dedent(PROGRAM).replace("{number}", number).replace("{body}", textwrap.dedent(body))
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)


INTERRUPTED = """
try:
    press()
except KeyboardInterrupt:
    pass
else:
    raise SystemExit("the first was no KeyboardInterrupt")
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_the_first_is_a_keyboard_interrupt_and_those_after_it_are_told_once(number):
    ended = program(INTERRUPTED + "press()\npress()\npress()\nprint('cleaned')", number)
    assert (ended.returncode, ended.stdout) == (0, "cleaned\n")
    assert ended.stderr.count("press Ctrl-C again") == 1


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_one_more_after_a_while_ends_the_process_without_a_traceback(number):
    patience = "import harness.plugin.interrupt as own\nown._DOUBLE = 0.0\n"
    ended = program(patience + INTERRUPTED + "press()\npress()\nprint('still here')", number)
    assert (ended.returncode, ended.stdout) == (-signal.Signals[number], "")
    assert "Traceback" not in ended.stderr


def test_it_waits_until_the_interpreter_is_at_a_line_that_a_traceback_can_name():
    ended = program(
        "from types import SimpleNamespace\n"
        "try:\n    interrupts._interrupted(signal.SIGINT, SimpleNamespace(f_lineno=None))\n    time.sleep(30)\n"
        "except KeyboardInterrupt as error:\n    assert error.__traceback__.tb_next\n    print('cleaned')"
    )
    assert (ended.returncode, ended.stdout) == (0, "cleaned\n"), ended.stderr


def test_it_goes_when_the_run_was_not_interrupted_and_stays_when_it_was():
    ended = program(
        "interrupts.remove()\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\nassert interrupts.install()"
        + INTERRUPTED
        + "interrupts.remove()\npress()\nprint('cleaned')"
    )
    assert (ended.returncode, ended.stdout) == (0, "cleaned\n")


@pytest.mark.parametrize("theirs", ["signal.SIG_IGN", "signal.SIG_DFL", "lambda *_: None"])
def test_a_handler_of_somebody_elses_is_left_alone(theirs):
    ended = program(
        f"interrupts.remove()\ntheirs = {theirs}\nsignal.signal(signal.SIGINT, theirs)\nassert not Interrupts(speaks=True).install()\n"
        "assert signal.getsignal(signal.SIGINT) is theirs"
    )
    assert ended.returncode == 0, ended.stderr
