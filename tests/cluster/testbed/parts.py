"""How each part of the cluster is started: its command line, its configuration files, its environment.

Pure functions of a `Cluster`: a part is started again with what it was started with. Flags that only a test cluster on
a small machine wants have their reason beside them. Must not start anything.
"""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.cluster.testbed import binaries
from tests.cluster.testbed.handle import NODE_NAME, Cluster

# Names of the sandbox image and of the init image that training-operator gives every Worker.
PAUSE_IMAGE = "docker.io/selfrewarding/testbed-pause:1"
SHELL_IMAGE = "docker.io/library/alpine:3.10"


def etcd(cluster: Cluster) -> list[str]:
    """Key-value store of the API server; loopback inside the namespace only."""
    return [
        str(binaries.path("etcd")),
        f"--data-dir={cluster.state / 'etcd'}",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        f"--listen-metrics-urls=http://{cluster.address}:2381",  # also /health
        "--unsafe-no-fsync",  # nothing in it outlives the cluster
        "--log-level=warn",
    ]


def kube_apiserver(cluster: Cluster) -> list[str]:
    """The API server, with the admission plugins that are on by default, and NodeRestriction."""
    pki = cluster.pki
    return [
        str(binaries.path("kube-apiserver")),
        f"--bind-address={cluster.address}",
        f"--advertise-address={cluster.address}",
        "--secure-port=6443",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={cluster.service_cidr}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'kube-apiserver.crt'}",
        f"--tls-private-key-file={pki / 'kube-apiserver.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'kube-apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kube-apiserver-kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        f"--service-account-key-file={pki / 'service-account.crt'}",
        f"--audit-policy-file={_write(cluster, 'audit-policy.json', json.dumps(_audit_policy()))}",
        f"--audit-log-path={cluster.audit_log}",
        "--audit-log-mode=batch",
        "--audit-log-batch-max-wait=1s",
        "--profiling=false",
    ]


def kube_controller_manager(cluster: Cluster) -> list[str]:
    """The controllers, each with its own service account's rights."""
    pki = cluster.pki
    return [
        str(binaries.path("kube-controller-manager")),
        *_client(cluster, "kube-controller-manager"),
        "--use-service-account-credentials",
        "--allocate-node-cidrs",
        f"--cluster-cidr={cluster.pod_cidr}",
        "--node-cidr-mask-size=24",
        f"--service-cluster-ip-range={cluster.service_cidr}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--service-account-private-key-file={pki / 'service-account.key'}",
        "--kube-api-qps=200",  # tests make and remove many objects at once
        "--kube-api-burst=400",
    ]


def kube_scheduler(cluster: Cluster) -> list[str]:
    """The scheduler."""
    return [str(binaries.path("kube-scheduler")), *_client(cluster, "kube-scheduler")]


def kube_proxy(cluster: Cluster) -> list[str]:
    """Services by nftables, in the cluster's network namespace."""
    return [
        str(binaries.path("kube-proxy")),
        f"--kubeconfig={cluster.pki / 'kube-proxy.kubeconfig'}",
        "--proxy-mode=nftables",
        f"--cluster-cidr={cluster.pod_cidr}",
        f"--hostname-override={NODE_NAME}",
        f"--healthz-bind-address={cluster.address}:10256",
        "--metrics-bind-address=127.0.0.1:10249",
        "--conntrack-max-per-core=0",  # a setting of the whole machine: not ours
    ]


def containerd(cluster: Cluster) -> list[str]:
    """The container runtime. Its images stay when the cluster stops."""
    return [
        str(binaries.path("containerd")),
        f"--config={_write(cluster, 'containerd.toml', _containerd_configuration(cluster))}",
    ]


def kubelet(cluster: Cluster) -> list[str]:
    """The node's agent."""
    return [
        str(binaries.path("kubelet")),
        f"--kubeconfig={cluster.pki / 'kubelet.kubeconfig'}",
        f"--config={_write(cluster, 'kubelet.json', json.dumps(_kubelet_configuration(cluster), indent=2))}",
        f"--root-dir={cluster.kubelet_root}",
        f"--cert-dir={cluster.kubelet_root / 'pki'}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={cluster.address}",  # loopback is refused
    ]


def coredns(cluster: Cluster) -> list[str]:
    """The cluster's DNS, on the node's address."""
    zones = f"""\
cluster.local:53 in-addr.arpa:53 {{
    bind {cluster.address}
    errors
    ready {cluster.address}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {cluster.pki / "coredns.kubeconfig"}
        ttl 1
    }}
}}
.:53 {{
    bind {cluster.address}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""
    return [str(binaries.path("coredns")), "-conf", str(_write(cluster, "Corefile", zones))]


def versitygw(cluster: Cluster) -> list[str]:
    """The S3 server, with objects as files."""
    data = cluster.state / "s3"
    data.mkdir(exist_ok=True)
    command = [str(binaries.path("versitygw")), "--quiet", "--port", f"{cluster.address}:7070", "posix"]
    if not _has_attributes(data):  # it keeps ETags in extended attributes, where the file system has them
        sidecar = cluster.state / "s3-metadata"
        sidecar.mkdir(exist_ok=True)
        command += ["--sidecar", str(sidecar)]
    return [*command, str(data)]


COMMANDS: Mapping[str, Callable[[Cluster], list[str]]] = {
    "etcd": etcd,
    "kube-apiserver": kube_apiserver,
    "kube-controller-manager": kube_controller_manager,
    "kube-scheduler": kube_scheduler,
    "containerd": containerd,
    "kubelet": kubelet,
    "kube-proxy": kube_proxy,
    "coredns": coredns,
    "versitygw": versitygw,
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager")


def of(cluster: Cluster) -> tuple[str, ...]:
    """The parts that a cluster of this shape has, as processes of the machine."""
    return tuple(COMMANDS) if cluster.node else CONTROL_PLANE


def environment(cluster: Cluster, part: str) -> dict[str, str]:
    """A part's whole environment: nothing of the caller's gets in but where programs are."""
    search = [
        str(binaries.part("containerd").folder),
        "/usr/sbin",
        "/sbin",
        os.environ.get("PATH", "/usr/bin:/bin"),
    ]
    found = {"PATH": ":".join(search), "HOME": str(cluster.state)}
    if part == "versitygw":
        settings = cluster.s3_settings()
        found["ROOT_ACCESS_KEY"] = settings["AWS_ACCESS_KEY_ID"]
        found["ROOT_SECRET_KEY"] = settings["AWS_SECRET_ACCESS_KEY"]
    return found


def write_s3_keys(cluster: Cluster) -> None:
    """Draw the S3 server's keys, for this cluster only."""
    lines = {
        "AWS_ACCESS_KEY_ID": f"testbed{secrets.token_hex(6)}",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
        "AWS_REGION": "us-east-1",
        "SRR_S3_ENDPOINT": cluster.s3_endpoint,
        "SRR_S3_ADDRESSING": "path",
    }
    cluster.s3_environment.touch(mode=0o600)
    cluster.s3_environment.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))


def write_cni(cluster: Cluster) -> None:
    """Write how pods get their network: a bridge, addresses from the node's range, host ports."""
    network = {
        "cniVersion": "1.0.0",
        "name": cluster.namespace,
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods",
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(cluster.run / "cni-addresses"),
                    "ranges": [[{"subnet": cluster.pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    _write(cluster, "cni/10-pods.conflist", json.dumps(network, indent=2))


def _client(cluster: Cluster, part: str) -> list[str]:
    """Flags that controller manager and scheduler share. Their /healthz needs no credentials."""
    kubeconfig = cluster.pki / f"{part}.kubeconfig"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--authentication-tolerate-lookup-failure",
        f"--bind-address={cluster.address}",
        "--leader-elect=false",  # there is one of each
        "--profiling=false",
    ]


def _audit_policy() -> dict[str, Any]:
    """Who asked for what, of everybody but the cluster's own parts: tests count an operator's requests."""
    own = [
        "system:apiserver",
        *(f"system:kube-{part}" for part in ("controller-manager", "scheduler", "proxy")),
    ]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "users": [*own, "coredns", "system:anonymous"]},
            {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
            {"level": "Metadata"},
        ],
    }


def _kubelet_configuration(cluster: Cluster) -> dict[str, Any]:
    resolver = _write(cluster, "resolv.conf", f"nameserver {cluster.address}\n")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": cluster.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(cluster.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(cluster.pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(cluster.pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{cluster.containerd_socket}",
        "clusterDNS": [cluster.address],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolver),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cluster.namespace}",
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,  # a sandbox may not let processes lower it
        "healthzPort": 0,
        "podLogsDir": str(cluster.state / "pod-logs"),
        "volumePluginDir": str(cluster.kubelet_root / "volume-plugins"),
        "maxPods": 200,
        # The machine is shared and its disk is the developer's own: images are not the cluster's to remove.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Secrets and ConfigMaps reach running pods at this pace; training-operator waits for its certificate so.
        "syncFrequency": "5s",
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "shutdownGracePeriod": "0s",
    }


def _containerd_configuration(cluster: Cluster) -> str:
    return f"""\
version = 3
root = {json.dumps(str(cluster.containerd_root))}
state = {json.dumps(str(cluster.run / "containerd"))}

[grpc]
  address = {json.dumps(str(cluster.containerd_socket))}

[plugins."io.containerd.internal.v1.opt"]
  path = {json.dumps(str(cluster.run / "containerd-opt"))}

[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = {json.dumps(PAUSE_IMAGE)}

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = {json.dumps(str(cluster.state / "cni"))}

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = false
"""


def _write(cluster: Cluster, name: str, text: str) -> Path:
    path = cluster.state / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _has_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.srr", b"1")
    except OSError:
        return False
    return True
