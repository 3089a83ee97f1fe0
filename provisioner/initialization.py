"""Condition Initialized: the node can run what the claim was made for.

Ready, no start-up taint left, every requested resource allocatable: on GPU nodes the device plugin comes later than Ready,
and a pod that is scheduled in between fails. Woken by events of the node alone; the only timer is the deadline.
"""

from collections.abc import Iterable
from datetime import timedelta

from kube.api import labels
from kube.api.nodeclaim import INITIALIZED, REGISTERED, NodeClaim
from kube.api.reasons import ClaimReason
from kube.api.workload import Node, Taint
from provisioner import metrics
from provisioner.claims import failed, has_gpus
from provisioner.context import Context, Draft
from provisioner.quantity import parse_quantity

DISK_REQUEST = "storage"  # KAITO's way to size the OS disk; no node ever shows such a resource

# Taints that kubelet, cloud provider and Karpenter put on a node that is still coming up.
EPHEMERAL = {
    ("node.kubernetes.io/not-ready", "NoSchedule"),
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoSchedule"),
    ("node.cloudprovider.kubernetes.io/uninitialized", "NoSchedule"),
    (labels.UNREGISTERED_TAINT, "NoExecute"),
}


async def initialize(context: Context, draft: Draft) -> timedelta | None:
    if draft.conditions.is_true(INITIALIZED) or failed(draft.conditions) or not draft.conditions.is_true(REGISTERED):
        return None
    node = context.node_of(draft.claim)
    if node is None:
        draft.wait(INITIALIZED, ClaimReason.NODE_NOT_FOUND, "Node not registered with cluster")
        return await _deadline(context, draft)
    if found := obstacle(draft.claim, node, gpus=context.settings.gpus_required):
        draft.wait(INITIALIZED, *found)
        return await _deadline(context, draft)
    if node.metadata.labels.get(labels.INITIALIZED) != "true":
        await context.patch_node(draft.key, node, {"metadata": {"labels": {labels.INITIALIZED: "true"}}})
    draft.status |= {"capacity": dict(node.status.capacity), "allocatable": dict(node.status.allocatable)}
    draft.conditions.set(INITIALIZED, True, INITIALIZED)
    _measure(context, draft, node)
    return None


def obstacle(claim: NodeClaim, node: Node, *, gpus: bool) -> tuple[ClaimReason, str] | None:
    """What still keeps the node from being used, as reason and message; None when nothing does."""
    if not node.ready:
        return ClaimReason.NODE_NOT_READY, "Node status is NotReady"
    if taint := _first(claim.spec.startup_taints, node):
        return ClaimReason.STARTUP_TAINTS_EXIST, f'StartupTaint "{_text(taint)}" still exists'
    if taint := next((each for each in node.spec.taints if (each.key, each.effect) in EPHEMERAL), None):
        return ClaimReason.KNOWN_EPHEMERAL_TAINTS_EXIST, f'KnownEphemeralTaint "{_text(taint)}" still exists'
    for resource in _wanted(claim, gpus=gpus):
        if parse_quantity(str(node.status.allocatable.get(resource, "0"))) <= 0:
            return ClaimReason.RESOURCE_NOT_REGISTERED, f'Resource "{resource}" was requested but not registered'
    return None


def _wanted(claim: NodeClaim, *, gpus: bool) -> Iterable[str]:
    """What the claim requests; with `gpus` also the GPUs that its size has and nobody asked for."""
    requested = claim.spec.resources.requests
    wanted = [name for name, amount in requested.items() if name != DISK_REQUEST and parse_quantity(str(amount)) > 0]
    if gpus and labels.NVIDIA_GPU not in wanted and has_gpus(claim.instance_type):
        wanted.append(labels.NVIDIA_GPU)
    return wanted


def _first(startup_taints: tuple[Taint, ...], node: Node) -> Taint | None:
    present = {(taint.key, taint.effect) for taint in node.spec.taints}
    return next((taint for taint in startup_taints if (taint.key, taint.effect) in present), None)


def _text(taint: Taint) -> str:
    return f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"


async def _deadline(context: Context, draft: Draft) -> timedelta | None:
    limit = context.settings.initialization_timeout
    if not limit:
        return None
    left = await context.left(limit, draft.since(REGISTERED))
    if left > 0:
        return timedelta(seconds=left)
    last = draft.conditions.get(INITIALIZED)
    why = f": {last.message}" if last else ""
    message = f"The node was not usable within {limit / 60:.0f} min{why}"
    draft.fail(INITIALIZED, ClaimReason.INITIALIZATION_TIMEOUT, message)
    return None


def _measure(context: Context, draft: Draft, node: Node) -> None:
    ready = next(condition for condition in node.status.conditions if condition.type == "Ready")
    metrics.since(metrics.ready_latency, ready.last_transition_time, context.clock)
    metrics.since(metrics.time_to_ready, draft.claim.metadata.creation_timestamp, context.clock)
