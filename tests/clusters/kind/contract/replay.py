"""Stands for kind or docker in tests: answers the exchanges of a script in their order, and nothing else. Standard library only.

replay.py FOLDER PROGRAM ARGUMENT...: FOLDER holds `script.json`; `calls` gets a line for each call, `wrong` what did not fit.
"""

import fcntl
import json
import signal
import sys
from pathlib import Path


def main() -> int:
    folder, argv = Path(sys.argv[1]), sys.argv[2:]
    text = sys.stdin.read() if argv[-2:] == ["-", "--retain"] or "-" in argv else ""
    with (folder / "calls").open("a+") as calls:
        fcntl.flock(calls, fcntl.LOCK_EX)
        calls.seek(0)
        place = len(calls.readlines())
        calls.write(json.dumps({"argv": argv, "stdin": text}) + "\n")
    script = json.loads((folder / "script.json").read_text())
    exchange = script[place] if place < len(script) else None
    if exchange is None or not fits(exchange["argv"], argv):
        with (folder / "wrong").open("a") as wrong:
            wrong.write(f"call {place}: {argv}, expected {exchange and exchange['argv']}\n")
        sys.stderr.write("this is not in the script\n")
        return 99
    if option := exchange.get("writes"):
        Path(argv[argv.index(option) + 1]).write_text((folder / "kubeconfig").read_text())
    sys.stdout.write(exchange.get("stdout", ""))
    sys.stderr.write(exchange.get("stderr", ""))
    sys.stderr.flush()
    if exchange.get("waits"):
        (folder / "waiting").touch()
        signal.pause()
    return int(exchange.get("exit", 0))


def fits(expected: list, argv: list) -> bool:
    return len(expected) == len(argv) and all(want in ("*", got) for want, got in zip(expected, argv, strict=True))


sys.exit(main())
