"""Whether a box can run on this machine; also `python3 -m hack.local.machine`, which make asks before anything is installed.

Standard library only.
"""

import os
import platform
import sys

from hack.local.process import BoxError


def check() -> None:
    """Raise BoxError where a box cannot run, saying what to do instead."""
    own = "For a cluster of your own see docs/install-aks.md: kustomize installs the controllers, on AKS or elsewhere."
    if platform.system() != "Linux":
        raise BoxError(f"AKS in a box needs Linux (it boots real nodes); this is {platform.system()}. {own}")
    if os.geteuid() != 0:
        raise BoxError(f"AKS in a box needs root (namespaces, bridges, mounts): run it with sudo. {own}")


if __name__ == "__main__":
    try:
        check()
    except BoxError as error:
        sys.exit(f"error: {error}")
