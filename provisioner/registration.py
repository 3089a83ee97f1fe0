"""Condition Registered: the claim's node carries what the claim says, and our finalizer.

AKS puts labels and taints on the nodes itself; what it cannot do (annotations, start-up taints, the owner reference, the
finalizer that makes a deleted node drain first) is done here, once, in one patch.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec

from kube.api import labels
from kube.api.nodeclaim import LAUNCHED, NODE_CLAIMS, REGISTERED, NodeClaim
from kube.api.reasons import ClaimReason
from kube.api.workload import Node, Taint
from kube.meta import Key
from provisioner import metrics
from provisioner.claims import failed
from provisioner.context import Context, Draft

# What describes the claim object and not the machine.
OWN_ANNOTATIONS = {labels.LAUNCH_TIME, labels.LAUNCH_ATTEMPTS, "kubectl.kubernetes.io/last-applied-configuration"}


async def register(context: Context, draft: Draft) -> timedelta | None:
    if draft.conditions.is_true(REGISTERED) or failed(draft.conditions) or not draft.conditions.is_true(LAUNCHED):
        return None
    node = context.node_of(draft.claim)
    if node is None and draft.status.get("providerID"):  # launched in this very reconcile
        found = [each for each in context.nodes_of(draft.name) if each.spec.provider_id == draft.status["providerID"]]
        node = found[0] if found else None
    if node is None or node.metadata.deleting:
        draft.wait(REGISTERED, ClaimReason.NODE_NOT_FOUND, "Node not registered with cluster")
        return await _deadline(context, draft)
    await context.patch_node(draft.key, node, registration_patch(draft.claim, node, draft.labels))
    draft.status["nodeName"] = node.metadata.name
    draft.conditions.set(REGISTERED, True, REGISTERED, _surplus(context, draft, node))
    metrics.nodes_created.labels(draft.claim.metadata.labels.get(labels.NODEPOOL, "")).inc()
    metrics.since(metrics.node_to_registered, node.metadata.creation_timestamp, context.clock)
    return None


def left_behind(context: Context, name: str, *, claim_uid: str = "") -> list[Node]:
    """Nodes under deletion that wait for our finalizer, and that were registered for another claim of this name."""
    return [
        node
        for node in context.nodes_of(name)
        if node.metadata.deleting
        and labels.TERMINATION_FINALIZER in node.metadata.finalizers
        and _registered_by_us(node, name)
        and all(owner.uid != claim_uid for owner in node.metadata.owner_references)
    ]


async def let_go(context: Context, claim: Key, node: Node) -> None:
    """Take our finalizer off a node whose machine is gone."""
    rest = [each for each in node.metadata.finalizers if each != labels.TERMINATION_FINALIZER]
    await context.patch_node(claim, node, {"metadata": {"finalizers": rest}})
    metrics.nodes_terminated.labels(node.metadata.labels.get(labels.NODEPOOL, "")).inc()


def _registered_by_us(node: Node, claim_name: str) -> bool:
    """Whether the node was registered for a claim of this name: other Karpenter providers use the same finalizer."""
    if not any((owner.kind, owner.name) == (NODE_CLAIMS.kind, claim_name) for owner in node.metadata.owner_references):
        return False
    return not {labels.NODE_CLASS, labels.WORKSPACE, labels.RAGENGINE}.isdisjoint(node.metadata.labels)


def registration_patch(claim: NodeClaim, node: Node, more_labels: dict[str, str]) -> dict[str, Any]:
    """Everything that the node gets from the claim. Lists are written whole: the patch is conditional on the version."""
    ref = claim.spec.node_class_ref
    class_label = {f"{ref.group}/{ref.kind.lower()}": ref.name} if ref.group and ref.kind else {}
    annotations = {key: value for key, value in claim.metadata.annotations.items() if key not in OWN_ANNOTATIONS}
    patch: dict[str, Any] = {
        "metadata": {
            "labels": {**claim.metadata.labels, **more_labels, **class_label, labels.REGISTERED: "true"},
            "annotations": annotations,
            "finalizers": [*dict.fromkeys((*node.metadata.finalizers, labels.TERMINATION_FINALIZER))],
            "ownerReferences": _owners(claim, node),
        }
    }
    taints = merged_taints(claim, node)
    if taints != node.spec.taints:
        patch["spec"] = {"taints": msgspec.to_builtins(taints)}
    return patch


def _owners(claim: NodeClaim, node: Node) -> list[dict[str, Any]]:
    ours = {
        "apiVersion": NODE_CLAIMS.api_version,
        "kind": NODE_CLAIMS.kind,
        "name": claim.metadata.name,
        "uid": claim.metadata.uid,
        "blockOwnerDeletion": True,
    }
    others = [owner for owner in node.metadata.owner_references if owner.uid != claim.metadata.uid]
    return [*msgspec.to_builtins(others), ours]


def merged_taints(claim: NodeClaim, node: Node) -> tuple[Taint, ...]:
    """The node's taints and the claim's; the claim wins where key and effect are the same."""
    kept: Sequence[Taint] = [taint for taint in node.spec.taints if taint.key != labels.UNREGISTERED_TAINT]
    if claim.metadata.labels.get(labels.DO_NOT_SYNC_TAINTS) == "true":
        return tuple(kept)
    wanted = (*claim.spec.taints, *claim.spec.startup_taints)
    named = {(taint.key, taint.effect) for taint in wanted}
    return (*(taint for taint in kept if (taint.key, taint.effect) not in named), *wanted)


def _surplus(context: Context, draft: Draft, chosen: Node) -> str:
    others = [node.metadata.name for node in context.nodes_of(draft.name) if node.metadata.name != chosen.metadata.name]
    return f"Node {chosen.metadata.name}" + (
        f"; ignoring {', '.join(sorted(others))} of the same pool" if others else ""
    )


async def _deadline(context: Context, draft: Draft) -> timedelta | None:
    limit = context.settings.registration_timeout
    left = await context.left(limit, draft.since(LAUNCHED))
    if left > 0:
        return timedelta(seconds=left)
    draft.fail(REGISTERED, ClaimReason.REGISTRATION_TIMEOUT, f"The node was not registered within {limit / 60:.0f} min")
    return None
