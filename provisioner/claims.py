"""What can be said of one NodeClaim without asking anybody: whose it is, whether it has failed, which pool is its own."""

import re
from datetime import datetime

from kube.api import labels
from kube.api.nodeclaim import DEPENDENTS, NodeClaim
from kube.api.nodeclass import NODE_CLASSES
from kube.clock import parse_timestamp
from kube.conditions import ConditionSet
from provisioner.cloud import Instance

NAME = re.compile(r"[a-z][a-z0-9]{0,11}")  # what AKS takes as the name of an agent pool; the SDK does not check it
LEGACY_TIME = "%Y-%m-%dT%H-%M-%SZ"  # a timestamp that is a valid label value, as gpu-provisioner writes it


def managed(claim: NodeClaim) -> bool:
    """Whether the claim is ours to act on. gpu-provisioner's rule, so that either may be replaced by the other."""
    ref = claim.spec.node_class_ref
    if (ref.group, ref.kind) == (NODE_CLASSES.group, NODE_CLASSES.kind):
        return True
    return labels.WORKSPACE in claim.metadata.labels or labels.RAGENGINE in claim.metadata.labels


def failed(conditions: ConditionSet) -> bool:
    """Whether the claim has ended without a machine, for good: its pool is to go, its reason is to stay.

    False means just that, to every controller that makes claims; what is still tried is Unknown.
    """
    return any(conditions.is_false(name) for name in DEPENDENTS)


def owns(claim: NodeClaim, instance: Instance, cluster_id: str) -> bool:
    """Whether the instance was made for this very claim: not for a namesake, and not in another cluster's name.

    Pools of gpu-provisioner carry no tags; the creation time of their claim, in a label, tells one namesake from another.
    """
    if instance.name != claim.metadata.name:
        return False
    if instance.owner_uid or instance.cluster_id:
        return (instance.owner_uid, instance.cluster_id) == (claim.metadata.uid, cluster_id)
    return instance.labels.get(labels.CREATION_TIMESTAMP) == legacy_time(claim)


def has_gpus(instance_type: str) -> bool:
    """Whether the size is of Azure's N series: KAITO's and gpu-provisioner's rule."""
    return "standard_n" in instance_type.lower()


def legacy_time(claim: NodeClaim) -> str:
    return parse_timestamp(claim.metadata.creation_timestamp).strftime(LEGACY_TIME)


def launch_time(claim: NodeClaim) -> datetime | None:
    """When a create request was last about to be sent; None means that none ever was."""
    text = claim.metadata.annotations.get(labels.LAUNCH_TIME)
    return parse_timestamp(text) if text else None


def launch_attempts(claim: NodeClaim) -> int:
    """How many of its pools came up broken so far."""
    text = claim.metadata.annotations.get(labels.LAUNCH_ATTEMPTS, "0")
    return int(text) if text.isdigit() else 0
