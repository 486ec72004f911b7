"""Kubernetes objects, once: what the kustomize base and the Helm chart are written from."""
