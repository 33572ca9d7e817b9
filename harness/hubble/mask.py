"""Field masks: a copy of a flow with only the fields that the client asked for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from google.protobuf.message import Message

from harness.hubble.proto import flow_pb2

_Tree: TypeAlias = dict[str, "_Tree"]


def compile_mask(paths: Iterable[str]) -> Callable[[flow_pb2.Flow], flow_pb2.Flow] | None:
    """A function that copies what the paths name (`source.pod_name`, `time`), or None where there are no paths: the whole flow.

    A path may end at any field; a whole message wins over parts of it. Raises ValueError for a path that a flow does not have.
    """
    tree: _Tree = {}
    for path in paths:
        _add(tree, path)
    if not tree:
        return None

    def masked(flow: flow_pb2.Flow) -> flow_pb2.Flow:
        copy = flow_pb2.Flow()
        _copy(tree, flow, copy)
        return copy

    return masked


def _add(tree: _Tree, path: str) -> None:
    descriptor: Any = flow_pb2.Flow.DESCRIPTOR
    names = path.split(".")
    for position, name in enumerate(names):
        field = descriptor.fields_by_name.get(name) if descriptor is not None else None
        if field is None:
            raise ValueError(f"invalid field mask: a flow has no {path!r}")
        last = position == len(names) - 1
        if not last and (field.is_repeated or field.message_type is None):
            raise ValueError(f"invalid field mask: {path!r} goes into a field that is no message")
        if last:
            tree[name] = {}
            return
        if name in tree and not tree[name]:
            return  # the whole message is asked for already
        tree = tree.setdefault(name, {})
        descriptor = field.message_type


def _copy(tree: _Tree, source: Message, target: Message) -> None:
    for name, below in tree.items():
        field = source.DESCRIPTOR.fields_by_name[name]
        if field.is_repeated:
            getattr(target, name).extend(getattr(source, name))
        elif field.message_type is not None:
            if not source.HasField(name):
                continue
            part = getattr(target, name)
            part.SetInParent()
            if below:
                _copy(below, getattr(source, name), part)
            else:
                part.CopyFrom(getattr(source, name))
        else:
            setattr(target, name, getattr(source, name))
