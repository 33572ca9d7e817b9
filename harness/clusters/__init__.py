"""Where a case runs: the netns lab, a Kubernetes cluster, or the model alone. One contract: `base`."""
