"""A one-node Kubernetes for the tests: real control plane, kubelet and containerd in a network namespace of its own.

`python -m tests.cluster.testbed up` starts it; see `cluster.py` for the shape and `binaries.py` for where it comes from.
Nothing outside `tests/` may import this package.
"""
