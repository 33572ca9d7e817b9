"""A kind cluster of the harness's own: made with kind, given Cilium with Helm, used as any Kubernetes cluster, and removed again."""
