"""A ResourceQuota as the real admission keeps it. There is no quota controller here that would count.

Admission hears of quotas by a watch of its own, so that for a moment it still goes by what was before: what is to follow a
change must wait until admission goes by it. It is asked with objects that are not to be kept (a dry run). Where its watch
knows of no quota, it lists them and keeps that list for 30 s: it is asked before there is one, so that the list is empty.
"""

from typing import Any

from kubernetes.client import ApiException

from test.controller.stage import Stage
from test.expect import eventually

Json = dict[str, Any]
CONTAINERS = [{"name": "one", "image": "registry.example/one:1"}]


async def forbid(stage: Stage, kind: str) -> None:
    """Let a quota forbid objects of a kind, "jobs.batch" or "statefulsets.apps"."""
    assert not _refusal(stage, kind)
    hard = {f"count/{kind}": "0"}
    stage.core.create_namespaced_resource_quota(stage.namespace, {"metadata": {"name": kind}, "spec": {"hard": hard}})
    status = {"hard": hard, "used": hard}
    stage.core.patch_namespaced_resource_quota_status(kind, stage.namespace, {"status": status})
    await eventually(lambda: "exceeded quota" in _refusal(stage, kind))


async def permit(stage: Stage, kind: str) -> None:
    stage.core.delete_namespaced_resource_quota(kind, stage.namespace)
    await eventually(lambda: not _refusal(stage, kind))


def _refusal(stage: Stage, kind: str) -> str:
    """What admission says to one object more; nothing where it lets it in."""
    create, spec = {
        "jobs.batch": (stage.batch.create_namespaced_job, _job()),
        "statefulsets.apps": (stage.apps.create_namespaced_stateful_set, _stateful_set()),
    }[kind]
    try:
        create(stage.namespace, {"metadata": {"name": "one-more"}, "spec": spec}, dry_run="All")
    except ApiException as refused:
        return str(refused.body)
    return ""


def _job() -> Json:
    return {"template": {"spec": {"restartPolicy": "Never", "containers": CONTAINERS}}}


def _stateful_set() -> Json:
    labels = {"app": "one-more"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": CONTAINERS}}
    return {"serviceName": "one-more", "selector": {"matchLabels": labels}, "template": template}
