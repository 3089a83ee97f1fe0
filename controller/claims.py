"""NodeClaims as data: their names, which ordinal each stands for, what they say, and what is written to ask for one.

Pure: no client, no clock. Knows the schema of Karpenter and the words of KAITO; what becomes of a claim is `nodes`' business.
"""

import hashlib
from collections.abc import Iterable
from datetime import timedelta

from controller.planning import Rung
from controller.selection import node_labels
from controller.settings import NodeClass
from controller.world import BODY
from kube.api import labels
from kube.api.nodeclaim import AWAITING_RECONCILIATION, DEPENDENTS, LAUNCHED, NODE_CLAIMS, NodeClaim
from kube.api.workspace import Workspace
from kube.meta import Condition

TERMINATION_GRACE = "10m"  # bounds a drain; a model server needs seconds, a checkpoint minutes


def claim_name(uid: str, ordinal: int, attempt: int) -> str:
    """Return `ws` and ten hex digits: also a valid AKS pool name (12 characters, lower case, a letter first)."""
    return "ws" + hashlib.sha256(f"{uid}/{ordinal}/{attempt}".encode()).hexdigest()[:10]


def seated(claims: Iterable[NodeClaim], count: int) -> list[list[NodeClaim]]:
    """Return the claims of each ordinal below `count`. Adopted claims, which have no ordinal, take empty seats."""
    seats: list[list[NodeClaim]] = [[] for _ in range(count)]
    adopted = []
    for claim in claims:
        ordinal = claim.metadata.annotations.get(labels.ORDINAL, "")
        if ordinal.isdecimal() and int(ordinal) < count:
            seats[int(ordinal)].append(claim)
        elif not ordinal:
            adopted.append(claim)
    for claim in adopted:
        free = next((seat for seat in seats if all(other.metadata.deleting for other in seat)), None)
        if free is not None:
            free.append(claim)
    return seats


def surplus(seat: Iterable[NodeClaim]) -> list[NodeClaim]:
    """Return a seat's claims beyond the one that is to become its node: a ready one before others, then the oldest."""
    hopeful = [claim for claim in seat if not claim.metadata.deleting and not terminal(claim)]
    hopeful.sort(key=lambda claim: (not claim.ready, claim.metadata.creation_timestamp, claim.metadata.name))
    return hopeful[1:]


def terminal(claim: NodeClaim) -> Condition | None:
    """Return the condition that ends a claim's hopes: a provisioner that goes on trying says Unknown, not False."""
    launched = claim.condition(LAUNCHED)
    return launched if launched is not None and launched.false else None


def progress_of(claim: NodeClaim) -> Condition | None:
    """Return the first condition that is not True; those that merely await their turn come last."""
    pending = [condition for type_ in DEPENDENTS if (condition := claim.condition(type_)) and not condition.true]
    speaking = [condition for condition in pending if condition.reason != AWAITING_RECONCILIATION]
    return next(iter(speaking or pending), None)


def duration(text: str) -> timedelta:
    """Read a duration such as 1h30m; zero where there is none. Its form was validated by the schema."""
    units = {"h": "hours", "m": "minutes", "s": "seconds"}
    total, digits = timedelta(), ""
    for character in text:
        if character.isdigit():
            digits += character
        else:
            total, digits = total + timedelta(**{units[character]: int(digits)}), ""
    return total


def render_claim(node_class: NodeClass, workspace: Workspace, rung: Rung, name: str, ordinal: int) -> BODY:
    """Render a NodeClaim as KAITO's, with what it leaves out: capacity type, zones, GPU request, `expireAfter: Never`."""
    kaito = node_class.kaito
    resource = workspace.resource
    requirements = [
        ([labels.NODEPOOL, "kaito"] if kaito else None),
        [labels.INSTANCE_TYPE, rung.instance_type],
        [labels.OS, "linux"],
        ([labels.AZURE_SKU, rung.instance_type] if kaito else None),
        [labels.CAPACITY_TYPE, *(resource.capacity_types or ("on-demand",))],
        ([labels.ZONE, *resource.zones] if resource.zones else None),
    ]
    marks = {
        labels.WORKSPACE: workspace.metadata.name,
        labels.WORKSPACE_NAMESPACE: workspace.metadata.namespace,
        labels.WORKSPACE_UID: workspace.metadata.uid,
    }
    family = workspace.metadata.annotations.get(labels.NODE_IMAGE_FAMILY, "ubuntu")
    return {
        "apiVersion": NODE_CLAIMS.api_version,
        "kind": NODE_CLAIMS.kind,
        "metadata": {
            "name": name,
            "labels": node_labels(resource.label_selector) | ({labels.NODEPOOL: "kaito"} if kaito else {}) | marks,
            "annotations": {
                labels.DO_NOT_DISRUPT: "true",
                labels.NODE_IMAGE_FAMILY: family,
                labels.ORDINAL: str(ordinal),
            },
        },
        "spec": {
            "nodeClassRef": {"group": node_class.group, "kind": node_class.kind, "name": node_class.name},
            "taints": [{"key": labels.SKU_TAINT_KEY, "value": labels.SKU_TAINT_VALUE, "effect": "NoSchedule"}],
            "requirements": [
                {"key": item[0], "operator": "In", "values": item[1:]} for item in requirements if item is not None
            ],
            "resources": {
                "requests": {
                    "storage" if kaito else "ephemeral-storage": f"{rung.disk_gib}Gi",
                    rung.gpu_resource: str(rung.gpus_per_node),
                }
            },
            "expireAfter": "Never",
            "terminationGracePeriod": TERMINATION_GRACE,
        },
    }
