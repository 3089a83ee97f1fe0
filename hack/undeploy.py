"""Take both controllers off the cluster of the current kubeconfig: `python -m hack.undeploy --overlay aks`.

Waits until no Workspace and no NodeClaim that the provisioner manages is left, since without the controllers their nodes
would stay and cost money; deletes none of them itself. Then removes what the overlay installed, except kinds that are not
ours: Karpenter's NodeClaim may have become somebody else's.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from kube.api.nodeclaim import NodeClaim
from provisioner.claims import managed

ROOT = Path(__file__).resolve().parent.parent
OUR_GROUP = "kaito.sh"
LOOK_EVERY_SECONDS = 2.0
# What kubectl says of a kind that is not there, and of one that goes while it asks.
NOT_SERVED = ("the server doesn't have a resource type", "the server could not find the requested resource")

Document = dict[str, Any]


class UndeployError(Exception):
    """Something is left, or kubectl failed. The text says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hack.undeploy", description=__doc__)
    parser.add_argument("--overlay", default="aks", help="folder below manifests/overlays")
    parser.add_argument(
        "--timeout", type=float, default=1800, help="seconds to wait for Workspaces and NodeClaims to go"
    )
    parser.add_argument("--no-wait", action="store_true", help="do not wait until what was deleted is gone")
    given = parser.parse_args(arguments)
    try:
        wait_until_nothing_is_left(given.timeout)
        remove(rendered(given.overlay), wait=not given.no_wait)
    except UndeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def wait_until_nothing_is_left(timeout: float, pause: Callable[[float], None] = time.sleep) -> None:
    """Return once no Workspace and no NodeClaim of ours exists. Raises UndeployError when the time is over."""
    deadline = time.monotonic() + timeout
    shown: list[str] = []
    while remaining := left():
        if remaining != shown:
            print(f"waiting for {len(remaining)}: {', '.join(remaining)}", flush=True)
        if time.monotonic() >= deadline:
            raise UndeployError(
                f"still there: {', '.join(remaining)}. Delete the Workspaces (kubectl delete workspace --all -n NAMESPACE);"
                " their NodeClaims and nodes follow"
            )
        shown = remaining
        pause(LOOK_EVERY_SECONDS)


def left() -> list[str]:
    """Return what must be gone first: Workspaces of all namespaces, and NodeClaims that the provisioner manages."""
    claims = [claim for claim in _items("nodeclaims.karpenter.sh") if managed(msgspec.convert(claim, NodeClaim))]
    return [*_names("workspace", _items("workspaces.kaito.sh")), *_names("nodeclaim", claims)]


def rendered(overlay: str) -> list[Document]:
    return list(yaml.safe_load_all(_kubectl("kustomize", str(ROOT / "manifests" / "overlays" / overlay))))


def remove(documents: Sequence[Document], wait: bool = True) -> None:
    """Delete our kinds first, while the controllers still run and can finish a Workspace of the last moment; then the rest."""
    definitions = [each for each in documents if each["kind"] == "CustomResourceDefinition"]
    ours = [each for each in definitions if each["spec"]["group"] == OUR_GROUP]
    rest = [each for each in reversed(documents) if each not in definitions]
    for group in (ours, rest):
        text = yaml.safe_dump_all(group)
        print(_kubectl("delete", "--ignore-not-found", f"--wait={str(wait).lower()}", "-f", "-", given=text), end="")
    for kept in (each for each in definitions if each not in ours):
        print(f"customresourcedefinition {kept['metadata']['name']} kept: it is not ours")


def _items(resource: str) -> list[Document]:
    try:
        found = json.loads(_kubectl("get", resource, "--all-namespaces", "--output", "json"))
    except UndeployError as error:
        if any(text in str(error) for text in NOT_SERVED):
            return []
        raise
    items: list[Document] = found["items"]
    return items


def _names(kind: str, items: Sequence[Document]) -> list[str]:
    keys = ((item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in items)
    return [f"{kind} {'/'.join(filter(None, key))}" for key in keys]


def _kubectl(*arguments: str, given: str | None = None) -> str:
    ran = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise UndeployError(f"kubectl {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout


if __name__ == "__main__":
    sys.exit(main())
