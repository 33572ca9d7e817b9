"""YAML text as a tree that remembers where everything was written. No meaning: that is `model` and `manifests`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self, TypeAlias

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from harness.cases.source import Place, Source
from harness.cases.typed import NULLS, typed
from harness.errors import HarnessError, Location

_LIMIT = 50_000
"""Values that aliases repeat in one document: more is a mistake (or a bomb), never a case."""


class Text(str):
    """A scalar exactly as written, and where. What YAML would make of it is `value`."""

    __slots__ = ("place", "quoted", "tag")

    place: Place
    quoted: bool
    tag: str
    """The explicit YAML tag without its prefix (`str`, `int`), or ''."""

    def __new__(cls, text: str, place: Place, *, quoted: bool = False, tag: str = "") -> Self:
        self = super().__new__(cls, text)
        self.place = place
        self.quoted = quoted
        self.tag = tag
        return self

    @property
    def value(self) -> bool | int | float | str | None:
        """What YAML 1.1 makes of it, as Kubernetes' own tools (go-yaml) read it."""
        if self.tag:
            return typed(self) if self.tag != "str" else str(self)
        return str(self) if self.quoted else typed(self)

    @property
    def null(self) -> bool:
        return not self.quoted and self.tag in ("", "null") and str(self) in NULLS

    @property
    def location(self) -> Location:
        return self.place.location

    def error(self, message: str, *, hint: str | None = None) -> HarnessError:
        return self.place.error(message, hint=hint)

    def part(self, start: int, length: int) -> Place:
        """Where a part of this text stands: exact on one line without escapes, else found by its words, else all of it."""
        place = self.place
        opening = 1 if self.quoted else 0
        written = place.source.line(place.line)[place.column - 1 + opening :]
        if written.startswith(str(self).replace("\t", " ")):
            return place.at(place.line, place.column + opening + start, length)
        word = self[start : start + length].strip()
        for number in range(place.line, place.end_line + 1) if word else ():
            column = place.source.line(number).find(word, place.column - 1 if number == place.line else 0)
            if column >= 0:
                return place.at(number, column + 1, len(word))
        return place


class Items(list[Any]):
    """A YAML list with its place."""

    __slots__ = ("place",)
    place: Place


class Table(dict[str, Any]):
    """A YAML mapping with its place; its keys are Text, found by any str. `flow` if written with braces."""

    __slots__ = ("flow", "place")
    place: Place
    flow: bool

    def key(self, name: str) -> Text:
        """The key as written, with its place."""
        return next(key for key in self.texts() if key == name)

    def texts(self) -> Iterator[Text]:
        """The keys, with their places."""
        yield from self  # type: ignore[misc]  # every key is a Text; declared as str so that any str finds it

    def entries(self) -> Iterator[tuple[Text, Node]]:
        """Keys and values, both with their places."""
        for key in self.texts():
            yield key, self[key]

    def place_of(self, name: str) -> Place:
        """Where the value of a key stands; the key where the value is nothing or spans lines."""
        value: Node = self[name]
        place = value.place
        return self.key(name).place if place.end_line != place.line or place.column == place.end_column else place


Node: TypeAlias = "Text | Items | Table"


def kind_of(node: Node) -> str:
    """What a person calls it."""
    if isinstance(node, Table):
        return "a mapping"
    if isinstance(node, Items):
        return "a list"
    if node.null:
        return "nothing"
    match node.value:
        case bool():
            return f"`{node}` (true or false)"
        case int() | float():
            return f"the number `{node}`"
        case _:
            return f'the text "{node}"'


def place_at(node: Node, path: str) -> Place:
    """Where the last key of a path such as `spec.ingress[0].fromEndpoint` stands; of what is not there, the innermost part that is."""
    place = node.place
    while path:
        if isinstance(node, Items):
            index, _, path = path.removeprefix("[").partition("]")
            if not index.isdigit() or int(index) >= len(node):
                break
            node, path = node[int(index)], path.removeprefix(".")
            place = node.place
        elif isinstance(node, Table):
            # A key may have dots and brackets of its own: the longest that fits is meant.
            fitting = [each for each in node.texts() if path == each or path.startswith((f"{each}.", f"{each}["))]
            if not fitting:
                break
            key = max(fitting, key=len)
            node, path, place = node[key], path.removeprefix(key).removeprefix("."), key.place
        else:
            break
    return place


_PREFIX = "tag:yaml.org,2002:"
_PLAIN = "plain"
_TAGS = frozenset(("str", "int", "float", "bool", "null"))


class _Resolver(BaseResolver):
    """Leaves the types of scalars to whoever reads them: labels are text, policies are typed."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:  # noqa: ARG002  # the base class's signature
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _PREFIX + "str"
        return _PREFIX + ("seq" if kind is yaml.SequenceNode else "map")


class PurePythonLoader(Reader, Scanner, Parser, Composer, _Resolver):
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)


Loader: Any = PurePythonLoader
if yaml.__with_libyaml__:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]  # the stubs hide the extension module's class

    class LibyamlLoader(CParser, _Resolver):
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            _Resolver.__init__(self)

    Loader = LibyamlLoader
"""libyaml's where it is there: five times as fast, same marks."""


def parse_documents(source: Source, *, loader: Any = None) -> list[Node]:
    """The documents of a source, empty ones left out. Raises the source's error where it is no YAML, or repeats a key."""
    documents: list[Node] = []
    try:
        parser = (loader or Loader)(source.text)
        while parser.check_node():
            documents.append(_Tree(source).convert(parser.get_node()))
    except yaml.MarkedYAMLError as exc:
        raise _syntax_error(source, exc) from exc
    except ReaderError as exc:
        before = source.text[: exc.position]
        place = Place(source, before.count("\n") + 1, len(before) - before.rfind("\n"), 0, 0)
        code = exc.character if isinstance(exc.character, int) else ord(exc.character)
        raise place.at(place.line, place.column, 1).error(f"the character U+{code:04X} may not stand in YAML") from exc
    except RecursionError as exc:
        raise source.error("nested too deeply", location=Location(source.file, 1)) from exc
    return [each for each in documents if not (isinstance(each, Text) and each.null)]


def _syntax_error(source: Source, exc: yaml.MarkedYAMLError) -> HarnessError:
    mark = exc.problem_mark or exc.context_mark
    if mark is None:
        return source.error(f"not YAML: {exc.problem or exc}", location=Location(source.file, 1))
    # Imported here: most files are YAML, and their readers wait for nothing else.
    from harness.cases import traps

    since = exc.context_mark
    complaint = traps.Complaint(
        problem=exc.problem or "",
        context=exc.context or "",
        line=min(mark.line, len(source.lines) - 1),
        column=mark.column,
        context_line=since.line if since else None,
        context_column=since.column if since else None,
    )
    diagnosis = traps.diagnose(source.lines, complaint)
    place = Place(source, diagnosis.line + 1, diagnosis.column + 1, diagnosis.line + 1, diagnosis.column + 1 + diagnosis.length)
    return place.error(diagnosis.message, hint=diagnosis.hint)


class _Tree:
    """Converts one document's nodes."""

    MERGE: ClassVar[str] = "<<"

    def __init__(self, source: Source) -> None:
        self.source = source
        self.seen: set[int] = set()
        self.repeated = 0
        self.open: set[int] = set()

    def place(self, node: yaml.Node) -> Place:
        start, end = node.start_mark, node.end_mark
        return Place(self.source, start.line + 1, start.column + 1, end.line + 1, end.column + 1)

    def convert(self, node: yaml.Node) -> Node:
        if id(node) in self.seen:
            self.repeated += 1
            if self.repeated > _LIMIT:
                raise self.place(node).error(f"aliases repeat more than {_LIMIT:,} values", hint="an alias (`*name`) repeats what it names")
        self.seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            return self.text(node)
        if id(node) in self.open:
            raise self.place(node).error("an alias stands inside what it names")
        self.open.add(id(node))
        try:
            return self.items(node) if isinstance(node, yaml.SequenceNode) else self.table(node)
        finally:
            self.open.discard(id(node))

    def text(self, node: yaml.ScalarNode) -> Text:
        tag = node.tag
        place = self.place(node)
        if tag == _PLAIN:
            return Text(node.value, place)
        name = tag.removeprefix(_PREFIX)
        if name not in _TAGS:
            raise place.error(
                f"`{tag}` at the start of a text is a tag to YAML",
                hint=f'quote this: "{tag}{" " if node.value else ""}{node.value}"',
            )
        quoted = node.style in {"'", '"', "|", ">"}
        return Text(node.value, place, quoted=quoted, tag=name if not (quoted and name == "str") else "")

    def items(self, node: yaml.SequenceNode) -> Items:
        items = Items(self.convert(each) for each in node.value)
        items.place = self.place(node)
        return items

    def table(self, node: yaml.Node) -> Table:
        table = Table()
        table.place = self.place(node)
        table.flow = bool(node.flow_style)  # type: ignore[attr-defined]  # a MappingNode has it
        merged: list[Table] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.place(key_node).error("a key must be a text", hint="braces and brackets inside a text need quotes around it")
            key = self.text(key_node)
            value = self.convert(value_node)
            if key == self.MERGE and not key.quoted:
                merged.extend(self.merged(value))
            elif key in table:
                first = table.key(key).place.line
                raise key.error(f"`{key}` stands here twice, first in line {first}", hint="remove one, or give it another name")
            else:
                table[key] = value
        for each in merged:
            for key, merged_node in each.entries():
                table.setdefault(key, merged_node)
        if table:
            first_key = next(table.texts())
            if table.place.end_line != table.place.line and not table.flow:
                table.place = first_key.place
        return table

    def merged(self, value: Node) -> Iterator[Table]:
        for each in value if isinstance(value, Items) else (value,):
            if not isinstance(each, Table):
                raise value.place.error("`<<` merges mappings only")
            yield each
