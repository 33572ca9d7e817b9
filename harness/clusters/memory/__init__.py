"""The `memory` cluster: the policy model answers in place of a kernel. Same contract, no packet; everything it reports is simulated."""
