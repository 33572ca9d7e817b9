"""Cases on a Kubernetes cluster with Cilium: real pods, real policies, Hubble's own flows."""
