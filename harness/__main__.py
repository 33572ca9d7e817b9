"""`python -m harness` and the `harness` command."""

import gc

gc.set_threshold(100_000)  # set before the imports: what they make stays, and a question is over before anything is garbage

from harness.cli.main import main  # noqa: E402 -- see above

__all__ = ["main"]

if __name__ == "__main__":
    main()
