"""The base image of the project's images where there is no container registry: Debian 12 with its own Python 3.11.

It stands in for `python:3.11-slim-bookworm`, the default of the Dockerfiles' BASE_IMAGE: same distribution, same minor
version of Python, no compiler. Made with mmdebstrap from Debian's packages, cached by its recipe outside the checkout.
Must not know how images are built; `images.py` gives the archive to BuildKit.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.cluster.testbed import binaries
from tests.cluster.testbed.handle import TestbedError

NAME = "selfrewarding/testbed-python:3.11-bookworm"
_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_OPTIONS = (
    "--variant=apt",
    f"--include={','.join(_PACKAGES)}",
    # As in the slim images: no manuals, no translations.
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    '--aptopt=Acquire::Languages "none"',
)
# Files are dated alike, so that the same packages give the same archive.
_DATE = "1735689600"


def recipe() -> str:
    """Twelve digits that change when the base is made from something else."""
    facts = "\n".join((*_OPTIONS, _SUITE, _DATE))
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


def archive() -> Path:
    """The root file system as a tar archive, made now if it is not there (half a minute). Raises TestbedError."""
    folder = binaries.cache() / "images"
    wanted = folder / f"base-{recipe()}.tar"
    if wanted.exists():
        return wanted
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        raise TestbedError(
            "the base image is made by root with mmdebstrap: run `make cluster-build` as root on Debian, or name a base "
            "image that the node has: BASE_IMAGE=…"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="base-") as scratch:
        partial = Path(scratch) / "rootfs.tar"
        command = ["mmdebstrap", "--mode=root", "--quiet", *_OPTIONS, _SUITE, str(partial)]
        settings = {**os.environ, "SOURCE_DATE_EPOCH": _DATE, "TMPDIR": scratch}
        result = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        if result.returncode:
            raise TestbedError(
                f"mmdebstrap could not make the base image (it needs Debian's packages):\n{result.stderr[-2000:].strip()}"
            )
        partial.rename(wanted)
    return wanted
