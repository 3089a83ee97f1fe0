"""Whether a box can run on this machine; also `python3 -m hack.local.machine`, which make asks before anything is installed.

Standard library only, here and in what is imported.
"""

import os
import platform
import sys

from hack.local import assets
from hack.local.process import BoxError

INSTEAD = (
    "On a cluster of your own, wherever it is, no box is needed: `export KUBECONFIG=…`, then `make deploy OVERLAY=byo`, "
    'and label your GPU nodes; docs/install-aks.md says how, under "Other ways", and how nodes are made on AKS.'
)


def check() -> None:
    """Raise BoxError where a box cannot run, saying what to do instead."""
    if platform.system() != "Linux":
        raise BoxError(f"AKS in a box needs Linux (it boots real nodes); this is {platform.system()}. {INSTEAD}")
    if os.geteuid() != 0:
        raise BoxError(f"AKS in a box needs root (namespaces, bridges, mounts): run it with sudo. {INSTEAD}")
    assets.check()


if __name__ == "__main__":
    try:
        check()
    except BoxError as error:
        sys.exit(f"error: {error}")
