"""The `Cluster` port: what a reconcile pass asks of a cluster. Adapters: Kubernetes, and local processes (`local/`)."""
