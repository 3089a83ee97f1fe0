"""Emptying a node before its machine goes: cordon, evict in four groups, wait for volumes.

Evictions go through the eviction API, so disruption budgets are kept, and pods that may not be disrupted are waited for,
until the grace period of the claim ends; then pods are deleted with what is left of it. Everything is derived from the
pods that are there: a drain that was interrupted goes on where it stood. Knows nothing of clouds.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from kube.api import labels
from kube.api.nodeclaim import NodeClaim
from kube.api.workload import NODES, PERSISTENT_VOLUME_CLAIMS, PODS, VOLUME_ATTACHMENTS, Node, Pod, Taint
from kube.clock import parse_timestamp
from kube.errors import ApiError, Conflict, NotFound, TooManyRequests
from kube.events import ObjectReference
from kube.meta import Key
from provisioner import metrics
from provisioner.context import Context

DISRUPTED = Taint(key=labels.DISRUPTED_TAINT, effect="NoSchedule")
MIRROR = "kubernetes.io/config.mirror"  # static pods: nobody but the kubelet can end them
CRITICAL = {"system-cluster-critical", "system-node-critical"}
# A pod that outlives its own deletion by this much sits on a kubelet that is gone; waiting for it helps nobody.
STUCK = timedelta(minutes=1)
DEFAULT_GRACE = 30  # seconds, the API server's own default
AGAIN, PROTECTED_AGAIN = 1.0, 10.0  # seconds; pods that are only waited for may run for days


async def cordon(context: Context, claim: NodeClaim, node: Node) -> Node:
    """Keep new pods and load balancers away."""
    if DISRUPTED in node.spec.taints and labels.EXCLUDE_BALANCERS in node.metadata.labels:
        return node
    taints = [*(taint for taint in node.spec.taints if taint.key != DISRUPTED.key), DISRUPTED]
    patch = {
        "metadata": {"labels": {labels.EXCLUDE_BALANCERS: "karpenter"}},
        "spec": {"taints": msgspec.to_builtins(taints)},
    }
    return await context.patch_node(claim.metadata.key, node, patch)


async def drain(context: Context, node: Node, deadline: datetime | None) -> Sequence[Pod]:
    """Take the next step; returns the pods that are still to go (none: the node is drained)."""
    pods = await pods_on(context, node)
    waiting = [pod for pod in pods if drainable(pod, context.clock.now())]
    deleted = await _shorten(context, waiting, deadline) if deadline is not None else set()
    for pod in next_group(waiting):
        if not pod.metadata.deleting and pod.metadata.uid not in deleted and not protected(pod):
            await _evict(context, node, pod)
    return waiting


def look_again(pods: Sequence[Pod], deadline: datetime | None, now: datetime) -> timedelta:
    """When to take the next step; never so late that a pod gets less than its own grace period before the deadline."""
    seconds = PROTECTED_AGAIN if all(protected(pod) for pod in pods) else AGAIN
    if deadline is not None:
        seconds = min(seconds, (deadline - now).total_seconds() - max(_grace(pod) for pod in pods))
    return timedelta(seconds=max(AGAIN, seconds))


async def pods_on(context: Context, node: Node) -> Sequence[Pod]:
    """A LIST while draining is rare; a watch on all pods of the cluster would cost memory all the time."""
    return (await context.client.list(PODS, field_selector=f"spec.nodeName={node.metadata.name}")).items


def drainable(pod: Pod, now: datetime) -> bool:
    """Whether the pod has to end before the machine does."""
    if pod.status.phase in ("Succeeded", "Failed") or MIRROR in pod.metadata.annotations:
        return False
    if any(toleration.tolerates(DISRUPTED) for toleration in pod.spec.tolerations):
        return False
    deleted = pod.metadata.deletion_timestamp
    return deleted is None or now - parse_timestamp(deleted) < STUCK


def protected(pod: Pod) -> bool:
    """Whether the pod is not to be evicted: it ends by itself, or when the grace period of the claim does."""
    return pod.metadata.annotations.get(labels.DO_NOT_DISRUPT) == "true"


def next_group(pods: Iterable[Pod]) -> Sequence[Pod]:
    """The first that is not empty: ordinary pods, then daemons, then critical pods, then critical daemons."""
    groups: dict[tuple[bool, bool], list[Pod]] = {}
    for pod in pods:
        owner = pod.metadata.controller()
        daemon = owner is not None and owner.kind == "DaemonSet"
        groups.setdefault((pod.spec.priority_class_name in CRITICAL, daemon), []).append(pod)
    return groups[min(groups)] if groups else ()


async def _evict(context: Context, node: Node, pod: Pod) -> None:
    metadata = pod.metadata
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": metadata.name, "namespace": metadata.namespace},
        "deleteOptions": {"preconditions": {"uid": metadata.uid}},  # never the namesake that replaced it
    }
    code = "200"
    try:
        await context.client.create_subresource(PODS, metadata.key, "eviction", body)
        context.recorder.event(ObjectReference.of(PODS, pod), "Normal", "Evicted", "Evicted pod", action="Evicting")
    except (NotFound, Conflict) as gone:
        code = str(gone.code)
    except TooManyRequests as forbidden:
        code = str(forbidden.code)
        message = (
            f"Failed to drain node: a PodDisruptionBudget forbids the eviction of {metadata.key}: {forbidden.message}"
        )
        context.recorder.event(ObjectReference.of(NODES, node), "Warning", "FailedDraining", message, action="Draining")
    except ApiError as error:
        metrics.evictions.labels(str(error.code)).inc()
        raise
    metrics.evictions.labels(code).inc()


async def _shorten(context: Context, pods: Iterable[Pod], deadline: datetime) -> set[str]:
    """Delete pods whose own grace period would outlast the node's, so that each still gets what there is.

    Returns the UIDs of those.
    """
    deleted = set()
    now = context.clock.now()
    left = max(1, int((deadline - now).total_seconds()))
    for pod in pods:
        if left > _grace(pod) or _ends_before(pod, deadline):
            continue
        try:
            await context.client.delete(PODS, pod.metadata.key, uid=pod.metadata.uid, grace_period_seconds=left)
        except (NotFound, Conflict):
            continue
        deleted.add(pod.metadata.uid)
        message = f"Deleting the pod with {left} s of grace: the node's own termination grace period ends"
        context.recorder.event(ObjectReference.of(PODS, pod), "Warning", "Disrupted", message, action="Deleting")
    return deleted


def _grace(pod: Pod) -> int:
    """Seconds, and nobody keeps them from being more than a timedelta holds."""
    seconds = pod.spec.termination_grace_period_seconds
    return DEFAULT_GRACE if seconds is None else seconds


def _ends_before(pod: Pod, deadline: datetime) -> bool:
    """A deletion timestamp is the moment at which the kubelet kills, grace included."""
    deleted = pod.metadata.deletion_timestamp
    return deleted is not None and parse_timestamp(deleted) <= deadline


async def attached_volumes(context: Context, node: Node) -> Sequence[str]:
    """Volumes still attached to the node, less those of pods that are not drained and so never let go of theirs."""
    attachments = (await context.client.list(VOLUME_ATTACHMENTS)).items
    volumes = {
        each.spec.source.persistent_volume_name for each in attachments if each.spec.node_name == node.metadata.name
    } - {""}
    if not volumes:
        return ()
    return sorted(volumes - await _kept(context, node))


async def _kept(context: Context, node: Node) -> set[str]:
    now = context.clock.now()
    staying = [pod for pod in await pods_on(context, node) if not drainable(pod, now)]
    claims = {
        Key(pod.metadata.namespace, volume.persistent_volume_claim.claim_name)
        for pod in staying
        for volume in pod.spec.volumes
        if volume.persistent_volume_claim
    }
    kept = set()
    for key in claims:
        try:
            kept.add((await context.client.get(PERSISTENT_VOLUME_CLAIMS, key)).spec.volume_name)
        except NotFound:
            continue
    return kept
