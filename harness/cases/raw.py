"""The base of the raw models: a mapping with known keys, whose mistakes are errors that point. The keys are in `model`."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator

from harness.cases.document import Items, Node, Table, Text, kind_of
from harness.cases.source import Place
from harness.cases.suggest import closest, did_you_mean
from harness.errors import HarnessError

RESERVED = {
    "workload": "endpoints that are Deployments and the like",
    "hold": "connections kept open across phases",
    "held": "connections kept open across phases",
    "matrix": "one case in many variants",
    "include": "parts shared by case files",
    "xfail": "expectations known to be broken",
    "cluster": "endpoints in another cluster of a mesh",
    "readiness": "waiting until an endpoint is ready",
}
"""Keys that mean nothing yet and may not be used for anything else."""


class Raw(BaseModel):
    """A mapping with known keys. Reads a Table; its mistakes are errors that point."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    noun: ClassVar[str] = "mapping"
    _table: Table = PrivateAttr()

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Table):
            raise value.place.error(f"expected {cls.noun} (a mapping), found {kind_of(value)}")
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        for key, node in value.entries():
            if key not in fields:
                raise cls.unknown(value, key, tuple(fields))
            if isinstance(node, Text) and node.null:
                raise key.error(f"`{key}` says nothing", hint="give it a value, or remove the key")
        for name, field in fields.items():
            if field.is_required() and name not in value:
                raise value.place.error(f"{cls.noun} needs `{name}`", hint=cls.missing(value, name))
        try:
            model = handler(value)
        except ValidationError as exc:
            raise _generic(value, exc) from exc
        model._table = value  # noqa: SLF001  # its own class's
        return model

    @classmethod
    def unknown(cls, table: Table, key: Text, known: tuple[str, ...]) -> HarnessError:  # noqa: ARG003  # subclasses look at it
        """The error for a key that does not belong here."""
        if key in RESERVED:
            return key.error(f"`{key}` is kept for later ({RESERVED[key]}) and means nothing yet", hint="remove it")
        return key.error(f"unknown key `{key}` in {cls.noun}", hint=did_you_mean(key, known, noun="keys"))

    @classmethod
    def missing(cls, table: Table, name: str) -> str | None:
        """A hint for a required key that is not there."""
        near = closest(name, table)
        return f"did you mean `{name}` by `{near}`?" if near else None

    @property
    def table(self) -> Table:
        """The mapping as written."""
        return self._table

    @property
    def place(self) -> Place:
        return self._table.place


def _generic(table: Table, exc: ValidationError) -> HarnessError:
    """The error for a list where a mapping is wanted, and the like: pydantic names the path, the tree knows the place."""
    first = exc.errors(include_url=False)[0]
    node: Node = table
    for step in first["loc"]:
        if isinstance(node, Table) and str(step) in node:
            node = node[str(step)]
        elif isinstance(node, Items) and isinstance(step, int):
            node = node[step]
    if first["type"] == "too_short":
        return node.place.error(f"`{first['loc'][-1]}` is empty", hint="give it at least one")
    wanted = {"dict_type": "a mapping", "list_type": "a list"}.get(first["type"])
    hint = None
    if wanted == "a list" and isinstance(node, Text):
        hint = f"as a list: [{node}]"
    return node.place.error(f"expected {wanted}, found {kind_of(node)}" if wanted else str(first["msg"]), hint=hint)


def made(place: Place, **entries: Any) -> Table:
    """A mapping that was written in a shorter form."""
    table = Table((Text(name, place), value) for name, value in entries.items())
    table.place = place
    table.flow = True
    return table
