"""The keeper's process: `python -m harness.lab`, started by `start` and by nobody else."""

from __future__ import annotations

from harness.lab.start import main

if __name__ == "__main__":
    main()
