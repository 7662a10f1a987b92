"""Self-Rewarding Language Models on Kubernetes or on one machine. This module holds the version, nothing else."""

__version__ = "0.1.0"
