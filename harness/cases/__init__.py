"""YAML and manifests become a Case: parsed, checked and resolved, with errors that point. Pure apart from reading files."""
