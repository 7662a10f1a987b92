"""The local backend: a cluster's objects as processes of this machine."""
