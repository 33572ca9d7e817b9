"""The descriptor pool of the generated messages: not the default one, so that Cilium's own generated files, which define the same
names (`flow.Flow`), can be loaded in the same process."""

from google.protobuf import any_pb2, field_mask_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
for _module in (any_pb2, field_mask_pb2, timestamp_pb2, wrappers_pb2):
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)
