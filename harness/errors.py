"""Every error a user can meet, one type per situation; each says what, where and what to do."""

from __future__ import annotations

from msgspec import Struct


class Location(Struct, frozen=True):
    """A place in a file, as people count: line and column start at 1; column 0 means the whole line."""

    file: str
    line: int
    column: int = 0
    length: int = 1
    """How many characters the caret underlines."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f":{self.column}" if self.column else "")


class HarnessError(Exception):
    """The base of all errors that a user can meet. Caught at the rim (plugin, command line) and printed without a traceback.

    `location` and `source_line`, where known, are shown with a caret; `hint` says what to do.
    """

    def __init__(
        self,
        message: str,
        *,
        location: Location | None = None,
        source_line: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.location = location
        self.source_line = source_line
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"{self.location}: {self.message}" if self.location else self.message]
        if self.location and self.source_line is not None:
            lines.append(f"    {self.source_line.rstrip()}")
            if self.location.column:
                lines.append("    " + " " * (self.location.column - 1) + "^" * max(1, self.location.length))
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)


class CaseError(HarnessError):
    """A case file says something that cannot be run. Raised at collection; nothing has been provisioned."""


class PolicyFileError(HarnessError):
    """A manifest is missing, does not parse, or holds an object that is no network policy."""


class ScenarioError(HarnessError):
    """A scenario of `harness predict --scenarios` is malformed; the stream goes on."""


class UsageError(HarnessError):
    """An option, ini setting, environment variable or argument has a value that cannot be used."""


class ClusterError(HarnessError):
    """The place to run could not be opened, or broke. What it had provisioned is gone again."""


class LabUnavailableError(ClusterError):
    """This machine cannot run the netns lab: no root and no user namespaces, or `nft` is missing."""


class ImageUnavailableError(ClusterError):
    """The nodes of a cluster cannot get the image of the test pods: no case of the run can be deployed."""


class ProgramError(ClusterError):
    """A program that makes clusters (docker, kind, helm) failed. `said` is all it wrote about it."""

    def __init__(self, message: str, *, said: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.said = said


class ProgramMissingError(ClusterError):
    """A program that makes clusters is not installed."""


class ClusterTakenError(ClusterError):
    """There is a cluster of that name already, and it is not the harness's or not as it was asked for. It is left alone."""


class ProvisioningError(ClusterError):
    """A cluster of the harness's own could not be made or changed. What was half made is gone again."""


class FlowsUnavailableError(ClusterError):
    """Flows were required (`--hubble=require`) and the Observer cannot be reached."""


class FlowFileError(HarnessError):
    """A file of saved flows is missing, or holds something that is no flow."""
