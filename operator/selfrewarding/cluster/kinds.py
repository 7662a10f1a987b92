"""Where the API server keeps the kinds that the operator handles.

Must not: talk to anybody. Neighbours: `calls` makes requests of these paths, `inventory` knows kinds by name.
"""

from dataclasses import dataclass

from selfrewarding.api import labels


@dataclass(frozen=True)
class Resource:
    """A kind as the API names it in paths (Kubernetes API concepts, "Resource URIs")."""

    kind: str
    api_version: str
    """`group/version`, or `v1` for the core group."""
    plural: str

    @property
    def group(self) -> str:
        """The API group, "" for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def root(self) -> str:
        """The path of the group and version."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """The path of a collection, of an object, or of a part of it."""
        parts = [f"{self.root}/namespaces/{namespace}/{self.plural}", name, subresource]
        return "/".join(part for part in parts if part)


RUN = Resource(labels.KIND, labels.API_VERSION, labels.PLURAL)
POD = Resource("Pod", "v1", "pods")
EVENT = Resource("Event", "v1", "events")
CHILDREN = {
    resource.kind: resource
    for resource in (
        Resource("ConfigMap", "v1", "configmaps"),
        Resource("Service", "v1", "services"),
        Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
        Resource("Deployment", "apps/v1", "deployments"),
        Resource("Job", "batch/v1", "jobs"),
        Resource("PyTorchJob", "kubeflow.org/v1", "pytorchjobs"),
    )
}
"""Kinds that the operator creates."""
WORKLOADS = frozenset({"Deployment", "Job", "PyTorchJob"})
"""Kinds that have pods."""
OPTIONAL = frozenset({"PyTorchJob"})
"""Kinds that a cluster may lack."""
