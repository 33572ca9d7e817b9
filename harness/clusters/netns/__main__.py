"""The lab's process: `python -m harness.clusters.netns`, started by `launch` and by nobody else. Isolates itself before it imports anything
that could start a thread, then answers calls until the control socket closes."""

from __future__ import annotations

import json
import sys

from harness.clusters.netns import kernel, tied


def main() -> None:
    settings = json.loads(sys.argv[1])
    tied.die_with_parent(settings["parent"])
    try:
        kernel.isolate()
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(kernel.FORBIDDEN) from None
    from harness.clusters.netns.serving import run

    run(settings)


if __name__ == "__main__":
    main()
