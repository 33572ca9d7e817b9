"""The lab's DNS: what its resolver answers, and each node's proxy, which decides by the rules of policy and learns names for toFQDNs."""
