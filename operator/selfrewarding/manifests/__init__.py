"""Kubernetes objects as dicts, built from typed values only."""
