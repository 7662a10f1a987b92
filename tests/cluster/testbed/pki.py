"""Keys and certificates of a cluster, made anew at each start with the openssl command, and the kubeconfigs of its parts.

Names and groups are those that Kubernetes' own roles are bound to (documentation: "PKI certificates and requirements").
"""

import base64
import json
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.testbed.handle import NODE_NAME, Cluster, TestbedError

# File name → common name, organisation. The first has every right.
CLIENTS = {
    "admin": ("kubernetes-admin", "system:masters"),
    "kube-apiserver-kubelet-client": ("kube-apiserver-kubelet-client", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "coredns": ("coredns", ""),
    "kubelet": (f"system:node:{NODE_NAME}", "system:nodes"),
}
ELLIPTIC, RSA = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"), ("rsa:2048",)
# File names of the certificates of training-operator's webhook.
WEBHOOK_CA, WEBHOOK = "training-operator-ca", "training-operator"
# A configuration without extensions: the system's own makes every self-made certificate an authority.
_CONFIGURATION = "[req]\ndistinguished_name = name\n[name]\n"


def create(cluster: Cluster) -> None:
    """Make the authority, all certificates, and a kubeconfig for each client. Raises TestbedError."""
    cluster.pki.mkdir(mode=0o700, parents=True)
    (cluster.pki / "openssl.cnf").write_text(_CONFIGURATION)
    _certificate(cluster.pki, "ca", "/CN=kubernetes", ["basicConstraints=critical,CA:TRUE"], authority=None)
    names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    service = cluster.service_cidr.replace(".0/24", ".1")
    alternatives = ",".join([*(f"DNS:{name}" for name in names), f"IP:{cluster.address}", f"IP:{service}"])
    with ThreadPoolExecutor() as pool:
        # Its key signs service accounts' tokens.
        made = [pool.submit(_certificate, cluster.pki, "service-account", "/CN=service-account", [])]
        made += [
            pool.submit(
                _certificate,
                cluster.pki,
                "kube-apiserver",
                "/CN=kube-apiserver",
                ["extendedKeyUsage=serverAuth", f"subjectAltName={alternatives},IP:127.0.0.1"],
            )
        ]
        for file, (name, organisation) in CLIENTS.items():
            subject = f"/O={organisation}/CN={name}" if organisation else f"/CN={name}"
            extensions = ["extendedKeyUsage=clientAuth,serverAuth"]
            if file == "kubelet":
                extensions.append(f"subjectAltName=DNS:{NODE_NAME},IP:{cluster.address}")
            made.append(pool.submit(_certificate, cluster.pki, file, subject, extensions))
        for each in made:
            each.result()
    if cluster.training_operator:
        _certify_webhook(cluster.pki)
    for file in CLIENTS:
        _write_kubeconfig(cluster, file, cluster.pki / f"{file}.kubeconfig")
    _write_kubeconfig(cluster, "admin", cluster.kubeconfig)


def _certify_webhook(folder: Path) -> None:
    """Make what training-operator's webhook answers with, under an authority of its own: pods may read that key."""
    # Its rotation wants the authority's name as a host's, and reads the authority's key in this older form only.
    authority = ["basicConstraints=critical,CA:TRUE", "subjectAltName=DNS:training-operator-ca"]
    _certificate(folder, WEBHOOK_CA, "/CN=training-operator-ca", authority, None, RSA)
    key = str(folder / f"{WEBHOOK_CA}.key")
    _openssl("rsa", "-traditional", "-in", key, "-out", key)
    names = ["extendedKeyUsage=serverAuth", "subjectAltName=DNS:training-operator.kubeflow.svc"]
    _certificate(folder, WEBHOOK, "/CN=training-operator.kubeflow.svc", names, WEBHOOK_CA)


def _certificate(
    folder: Path,
    file: str,
    subject: str,
    extensions: Sequence[str],
    authority: str | None = "ca",
    kind: Sequence[str] = ELLIPTIC,
) -> None:
    command = ["req", "-x509", "-new", "-config", str(folder / "openssl.cnf"), "-subj", subject]
    command += ["-newkey", *kind, "-nodes", "-days", "365"]
    if authority:
        command += ["-CA", str(folder / f"{authority}.crt"), "-CAkey", str(folder / f"{authority}.key")]
    for extension in extensions:
        command += ["-addext", extension]
    command += ["-keyout", str(folder / f"{file}.key"), "-out", str(folder / f"{file}.crt")]
    _openssl(*command)


def _openssl(*arguments: str) -> None:
    result = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise TestbedError(f"`openssl {' '.join(arguments)}` failed: {result.stderr.strip()}")


def _write_kubeconfig(cluster: Cluster, user: str, target: Path) -> None:
    """Write a kubeconfig with its keys inside (JSON is YAML)."""

    def inline(file: str) -> str:
        return base64.b64encode((cluster.pki / file).read_bytes()).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster.name,
                "cluster": {
                    "server": cluster.api_server,
                    "certificate-authority-data": inline("ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": inline(f"{user}.crt"),
                    "client-key-data": inline(f"{user}.key"),
                },
            }
        ],
        "contexts": [{"name": cluster.name, "context": {"cluster": cluster.name, "user": user}}],
        "current-context": cluster.name,
    }
    target.touch(mode=0o600)
    target.write_text(json.dumps(document, indent=2) + "\n")
