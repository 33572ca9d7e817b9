"""A shell that stays open in a container: questions in, one after the other, and the output and exit code of each out. To open an exec costs
the API server, the kubelet and the runtime more than most of what is asked over it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.exec import Exec, Exit, Output
from harness.model.traffic import PodRef

_MARK = "--- end of the answer:"
_LOOP = f"""while IFS= read -r question; do eval "$question" </dev/null; printf '\\n{_MARK} %s\\n' $?; done"""
_KEPT = 5.0
"""How long a line that was open already may take before it counts as forgotten by something on the way (s)."""


class Shell:
    """Opened by the first question and kept until `close`; where the line broke meanwhile it is opened, and asked, again: ask only what may
    be asked twice. For one thread at a time."""

    def __init__(self, api: Api, pod: PodRef, container: str) -> None:
        self._api = api
        self._pod = pod
        self._container = container
        self._line: _Line | None = None

    def ask(self, question: str) -> Callable[[float], Output]:
        """Send a script of one line, which reads nothing. What is returned waits for its end, for so many seconds at most, and never raises:
        what broke is in the exit."""
        kept = self._line
        if kept is None:
            line = self._open(question)
            return lambda within: self._answer(line, within)
        kept.ask(question)

        def answer(within: float) -> Output:
            output = self._answer(kept, min(within, _KEPT))
            return output if output.exit.code is not None else self._answer(self._open(question), within)

        return answer

    def close(self) -> None:
        """End the line; the shell sees its input closed. Idempotent."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _open(self, question: str) -> _Line:
        self._line = _Line(self._api, self._pod, self._container)
        self._line.ask(question)
        return self._line

    def _answer(self, line: _Line, within: float) -> Output:
        output = line.answer(within)
        if output.exit.code is None:
            self.close()
        return output


class _Line:
    """One exec of the loop."""

    def __init__(self, api: Api, pod: PodRef, container: str) -> None:
        self._told = threading.Condition()
        self._lines: list[str] = []
        self._exit: Exit | None = None
        """Of the question, or of the line itself; then it is over."""
        self._over = False
        self._exec = Exec(api, pod, ["sh", "-c", _LOOP], container=container, on_line=self._hear, on_end=self._end)
        self._exec.start()

    def ask(self, question: str) -> None:
        with self._told:
            if not self._over:
                self._lines, self._exit, self._exec.stderr = [], None, ""
                self._exec.send(question)

    def answer(self, within: float) -> Output:
        with self._told:
            self._told.wait_for(lambda: self._exit is not None, within)
            exit_ = self._exit or Exit(None, f"no answer within {within:g} s")
            return Output(exit_, "\n".join(self._lines), self._exec.stderr)

    def close(self) -> None:
        self._exec.close()

    def _hear(self, text: str) -> None:
        with self._told:
            if text.startswith(_MARK):
                self._exit = Exit(int(text.removeprefix(_MARK)))
                self._told.notify_all()
            else:
                self._lines.append(text)

    def _end(self, exit_: Exit) -> None:
        with self._told:
            self._over = True
            # An exit code here is the loop's, and the loop was not to end.
            self._exit = exit_ if exit_.code is None else Exit(None, f"the shell ended with code {exit_.code}")
            self._told.notify_all()
