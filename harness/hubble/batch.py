"""Several events in one response of GetFlows, for a client that asked: gRPC costs far more for a message than a flow costs to read.

The request is an extension in the field that Hubble keeps for them, so servers that do not know it answer one by one. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.internal.encoder import TagBytes
from google.protobuf.internal.wire_format import WIRETYPE_LENGTH_DELIMITED

from harness.hubble.proto import batch_pb2, observer_pb2

_TYPE = f"type.googleapis.com/{batch_pb2.Batches.DESCRIPTOR.full_name}"
_MORE: bytes = TagBytes(observer_pb2.GetFlowsResponse.MORE_FIELD_NUMBER, WIRETYPE_LENGTH_DELIMITED)
LIMIT = 256


def ask(request: observer_pb2.GetFlowsRequest) -> None:
    """Ask for batches."""
    request.extensions.type_url = _TYPE
    request.extensions.value = batch_pb2.Batches(limit=LIMIT).SerializeToString()


def limit(request: observer_pb2.GetFlowsRequest) -> int:
    """How many events the client takes in one response: 1 unless it asked."""
    if request.extensions.type_url != _TYPE:
        return 1
    return max(1, min(LIMIT, batch_pb2.Batches.FromString(request.extensions.value).limit))


def pack(encoded: Sequence[bytes]) -> bytes:
    """One serialized response from several: the first carries the rest. Concatenation is what a repeated field is on the wire."""
    if len(encoded) == 1:
        return encoded[0]
    parts = [encoded[0]]
    for one in encoded[1:]:
        parts += (_MORE, _varint(len(one)), one)
    return b"".join(parts)


def unpack(response: observer_pb2.GetFlowsResponse) -> Iterator[observer_pb2.GetFlowsResponse]:
    """The response and what it carries, in order."""
    yield response
    yield from response.more


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
