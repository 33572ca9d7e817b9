"""The lab's HTTP, gRPC and TLS proxies: one Envoy for each node, started when a policy first needs it."""
