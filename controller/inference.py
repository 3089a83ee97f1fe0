"""`InferenceReady`: Services, a StatefulSet of servers, and what stands around it.

What is rendered depends on *inputs* (the spec, the ConfigMap's content, the tuned adapter's digest). Their hash stands on
the StatefulSet: the same inputs are never rendered again, so a newer controller restarts no model. Manual changes are
noticed by the generation and taken back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from controller import pods
from controller.diagnosis import diagnose, stage
from controller.planning import Decision
from controller.pods import Parts
from controller.status import REFUSED_SECONDS, Draft, counted
from controller.world import BODY, NameTaken, World, digest, metadata
from kube.api import labels
from kube.api.reasons import Reason
from kube.api.workload import CONFIG_MAPS, POD_DISRUPTION_BUDGETS, SERVICES, STATEFUL_SETS, Pod, StatefulSet
from kube.api.workspace import Adapter, Artifact, ConditionType, DataDestination, Workspace
from kube.errors import BadRequest, Forbidden, Invalid, ServerError
from kube.meta import Key
from runtime import contract

INFERENCE = "inference"  # the component label of its pods
GRACE_SECONDS = 60  # answers in flight are finished; after that a client would have given up
SERVICE_PORT = 80


@dataclass(frozen=True)
class Tuned:
    """A tuned adapter to serve on its base: an image by digest, or a volume."""

    artifact: Artifact
    output: DataDestination

    @property
    def image(self) -> str:
        """Return the image by digest, whatever its tag points to now."""
        return pinned(self.artifact)


class Inference:
    """The phase. Remembers the generation that each StatefulSet had when it was as wanted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._settled: dict[str, int] = {}

    async def ensure(
        self, workspace: Workspace, decision: Decision, draft: Draft, *, nodes_ready: bool, tuned: Tuned | None = None
    ) -> None:
        """Bring the server about as far as possible now."""
        try:
            await self._ensure_services(workspace)
            existing = self._world.stateful_sets.get(workspace.metadata.key)
            if existing is None and not nodes_ready:
                draft.endpoint = endpoint(workspace)
                draft.wait(ConditionType.INFERENCE_READY, Reason.INFERENCE_PENDING, "waiting for nodes")
                return
            existing = await self._ensure_servers(workspace, decision, existing, tuned)
        except NameTaken as taken:
            self._refused(draft, Reason.NAME_CONFLICT, str(taken))
            return
        except (BadRequest, Forbidden, Invalid) as error:
            self._refused(draft, Reason.CONTAINER_START_ERROR, f"the API server refused it: {error.message}")
            return
        except ServerError as error:
            if error.code != 500:
                raise  # it passes
            # Its answer to a field of a custom template that no schema declares, and to a webhook that is away.
            self._refused(draft, Reason.CONTAINER_START_ERROR, f"the API server failed at it: {error.message}")
            return
        draft.endpoint = endpoint(workspace)
        await self._judge(workspace, existing, draft)

    def _refused(self, draft: Draft, reason: Reason, message: str) -> None:
        draft.fail(ConditionType.INFERENCE_READY, reason, message)
        draft.look_again(REFUSED_SECONDS)

    async def remove(self, workspace: Workspace) -> bool:
        """Take the servers away, to free their GPUs. Return whether they are gone."""
        existing = self._world.stateful_sets.get(workspace.metadata.key)
        ours = existing is not None and owned(existing, workspace)
        if existing is not None and ours:
            await self._world.delete(STATEFUL_SETS, existing)
        return not ours and not self._world.pods_of(workspace, INFERENCE)

    async def withdraw(self, workspace: Workspace) -> None:
        """Take the servers away, and their address."""
        for name in (workspace.metadata.name, headless_name(workspace)):
            existing = self._world.services.get(Key(workspace.metadata.namespace, name))
            if existing is not None and owned(existing, workspace):
                await self._world.delete(SERVICES, existing)
        await self.remove(workspace)

    async def _ensure_services(self, workspace: Workspace) -> None:
        for body in (render_service(workspace), render_headless(workspace)):
            key = Key(workspace.metadata.namespace, body["metadata"]["name"])
            existing = self._world.services.get(key) or await self._world.current(workspace, SERVICES, key)
            if existing is not None and not owned(existing, workspace):
                raise NameTaken(f"Service {key.name} exists and is not this Workspace's")
            if existing is None or existing.metadata.annotations.get(labels.INPUTS) != inputs_of(body):
                await self._world.apply(workspace, SERVICES, body, existing.metadata.uid if existing else "")

    async def _ensure_servers(
        self, workspace: Workspace, decision: Decision, existing: StatefulSet | None, tuned: Tuned | None
    ) -> StatefulSet | None:
        """Apply the StatefulSet and its companions when inputs changed or somebody else changed it. Return what is there."""
        if existing is None:
            existing = await self._world.current(workspace, STATEFUL_SETS, workspace.metadata.key)
        elif not owned(existing, workspace):
            raise NameTaken(f"StatefulSet {workspace.metadata.name} exists and is not this Workspace's")
        if existing is not None and existing.metadata.deleting:
            return None
        inputs = inputs_hash(workspace, decision, tuned)
        if existing is not None and existing.metadata.annotations.get(labels.INPUTS) == inputs:
            generation = self._settled.setdefault(existing.metadata.uid, existing.metadata.generation)
            if generation == existing.metadata.generation:
                return existing
        for resource, body in render_companions(workspace, self._world.settings.ca_bundle):
            await self._world.apply(workspace, resource, body)
        body = render_stateful_set(workspace, decision, self._world, tuned, inputs)
        return await self._apply(workspace, existing, body)

    async def _apply(self, workspace: Workspace, existing: StatefulSet | None, body: BODY) -> StatefulSet | None:
        try:
            applied = await self._world.apply(workspace, STATEFUL_SETS, body, existing.metadata.uid if existing else "")
        except Invalid as error:
            if existing is None or not _immutable(error):
                raise
            # KAITO's, with another selector or service name: replaced, its pods go with the old owner.
            await self._world.delete(STATEFUL_SETS, existing, propagation="Foreground")
            return None
        self._settled[applied.metadata.uid] = applied.metadata.generation
        return applied

    async def _judge(self, workspace: Workspace, existing: StatefulSet | None, draft: Draft) -> None:
        """Ready means: every server of the newest template answers for the model and its adapters (its readiness says so)."""
        if existing is not None and rolled_out(existing):
            message = f"{counted(existing.spec.replicas, 'server')} ready"
            draft.done(ConditionType.INFERENCE_READY, Reason.INFERENCE_READY, message)
            return
        found = [pod for pod in self._world.pods_of(workspace, INFERENCE) if not ready(pod)]
        nodes = [node for name in draft.worker_nodes if (node := self._world.nodes.get(Key("", name)))]
        live = None
        for pod in found[:1]:  # the only polling while a server starts: one pod speaks for all
            live = await self._world.progress.read(pod)
            draft.look_again(self._world.progress.due(pod))
        problem = diagnose(found, nodes, live)
        if problem is not None:
            draft.fail(ConditionType.INFERENCE_READY, problem.reason, problem.message)
        else:
            draft.wait(ConditionType.INFERENCE_READY, Reason.INFERENCE_PENDING, _doing(found, live))


def owned(existing: Any, workspace: Workspace) -> bool:
    """Whether an object's controlling owner is this very Workspace."""
    owner = existing.metadata.controller()
    return owner is not None and owner.uid == workspace.metadata.uid


def rolled_out(existing: StatefulSet) -> bool:
    """Whether all pods are of the newest template and ready."""
    status, wanted = existing.status, existing.spec.replicas
    seen = status.observed_generation >= existing.metadata.generation
    return seen and status.ready_replicas >= wanted and status.updated_replicas >= wanted


def ready(pod: Pod) -> bool:
    return any(condition.type == "Ready" and condition.true for condition in pod.status.conditions)


def endpoint(workspace: Workspace) -> str:
    return f"http://{workspace.metadata.name}.{workspace.metadata.namespace}.svc"


def headless_name(workspace: Workspace) -> str:
    return f"{workspace.metadata.name}-headless"


def pinned(artifact: Artifact) -> str:
    """Return an artifact's reference by digest; the tag is what a person reads and may move."""
    if not artifact.digest:
        return artifact.ref
    repository = artifact.ref.partition("@")[0]
    head, _, tail = repository.rpartition(":")
    return f"{head if head and '/' not in tail else repository}@{artifact.digest}"


def inputs_hash(workspace: Workspace, decision: Decision, tuned: Tuned | None) -> str:
    """Hash what a StatefulSet is rendered from. What the controller's own release or settings add is left out on purpose:
    the label `kaito.sh/upgrade-to-version` is how a user asks for that.
    """
    return digest(
        msgspec.to_builtins(workspace.inference),
        msgspec.to_builtins(workspace.tuning.preset) if workspace.tuning else None,
        msgspec.to_builtins(workspace.resource.label_selector),
        msgspec.to_builtins(tuned.artifact) if tuned else None,
        tuned.output.image_push_secret if tuned else "",
        workspace.metadata.labels.get(labels.UPGRADE_TO_VERSION, ""),
        decision.config_hash,
        decision.rung.instance_type,
        workspace.resource.count or 1,
    )


def inputs_of(body: BODY) -> str:
    return str(body["metadata"]["annotations"][labels.INPUTS])


def render_service(workspace: Workspace) -> BODY:
    """Render the Service: the leader's pod alone, only while it is ready, never a Job's pod."""
    public = workspace.metadata.annotations.get(labels.ENABLE_LOAD_BALANCER, "").lower() == "true"
    return _service(
        workspace,
        workspace.metadata.name,
        {
            "type": "LoadBalancer" if public else "ClusterIP",
            "selector": {
                labels.WORKSPACE: workspace.metadata.name,
                labels.POD_NAME: f"{workspace.metadata.name}-0",
            },
            "ports": [
                {"name": "http", "protocol": "TCP", "port": SERVICE_PORT, "targetPort": contract.API_PORT},
                {
                    "name": "torch",
                    "protocol": "TCP",
                    "port": contract.MASTER_PORT,
                    "targetPort": contract.MASTER_PORT,
                },
            ],
        },
    )


def render_headless(workspace: Workspace) -> BODY:
    """Render the headless Service, by which the pods of one server find each other before they are ready."""
    selector = {labels.WORKSPACE: workspace.metadata.name, labels.COMPONENT: INFERENCE}
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector}
    return _service(workspace, headless_name(workspace), spec)


def _service(workspace: Workspace, name: str, spec: BODY) -> BODY:
    return {"metadata": metadata(workspace, name, annotations={labels.INPUTS: digest(spec)}), "spec": spec}


def render_companions(workspace: Workspace, ca_bundle: str) -> list[tuple[Any, BODY]]:
    """Render what the StatefulSet's pods need beside them."""
    selector = {labels.WORKSPACE: workspace.metadata.name, labels.COMPONENT: INFERENCE}
    budget = {
        "metadata": metadata(workspace, workspace.metadata.name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector},
        },
    }
    return [(POD_DISRUPTION_BUDGETS, budget), *render_ca(workspace, ca_bundle)]


def render_ca(workspace: Workspace, ca_bundle: str) -> list[tuple[Any, BODY]]:
    """Render the ConfigMap with the CA bundle, where there is one."""
    if not ca_bundle:
        return []
    return [(CONFIG_MAPS, {"metadata": metadata(workspace, pods.ca_name(workspace)), "data": {pods.CA_KEY: ca_bundle}})]


def render_stateful_set(
    workspace: Workspace, decision: Decision, world: World, tuned: Tuned | None, inputs: str
) -> BODY:
    """Render the StatefulSet. Pods start in parallel: the ranks of one server wait for each other."""
    template = (workspace.inference.template if workspace.inference else None) or None
    if template is not None:
        rendered = pods.custom(workspace, world.settings, template, INFERENCE)
    else:
        rendered = render_pod(workspace, decision, world, tuned)
    selector = {labels.WORKSPACE: workspace.metadata.name, labels.COMPONENT: INFERENCE}
    return {
        "metadata": metadata(workspace, workspace.metadata.name, INFERENCE, {labels.INPUTS: inputs}),
        "spec": {
            "replicas": decision.rung.nodes,
            "serviceName": headless_name(workspace),
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": selector},
            "template": rendered,
        },
    }


def render_pod(workspace: Workspace, decision: Decision, world: World, tuned: Tuned | None) -> BODY:
    """Render a server's pod: weights and adapters are fetched first, then `runtime.serve` runs."""
    parts = pods.common_parts(workspace, decision, world.settings)
    parts.init.append(pods.fetch_weights(parts, decision))
    adapters = [*_declared(workspace, parts), *_tuned(workspace, parts, tuned)]
    main = {
        "command": ["python", "-m", "runtime.serve"],
        "ports": [
            {"name": "http", "containerPort": contract.API_PORT, "protocol": "TCP"},
            {"name": "status", "containerPort": contract.STATUS_PORT, "protocol": "TCP"},
        ],
        "startupProbe": _probe("/livez", period=2, failures=150),  # the status server is up within a second or two
        "livenessProbe": _probe("/livez", period=10, failures=3),
        "readinessProbe": _probe("/readyz", period=2, failures=3),
    }
    plan = _serve_plan(workspace, decision, adapters)
    return pods.pod(
        workspace,
        decision,
        world.settings,
        parts,
        main,
        component=INFERENCE,
        grace_seconds=GRACE_SECONDS,
        plan=plan,
        annotations={},
    )


def _serve_plan(workspace: Workspace, decision: Decision, adapters: Sequence[contract.Adapter]) -> contract.ServePlan:
    """Complete the planner's part with what only the Workspace knows.

    `/chat` has no way to name a model: it speaks with the one adapter where there is one (declared, or tuned here).
    """
    plan = decision.rung.plan.serve if decision.rung.plan else None
    if plan is None:
        raise ValueError("a plan without a part for serving")  # `decide` asks for one wherever this is called
    name, namespace = workspace.metadata.name, workspace.metadata.namespace
    leader = f"{name}-0.{headless_name(workspace)}.{namespace}.svc" if decision.rung.nodes > 1 else ""
    chat_adapter = adapters[0].name if len(adapters) == 1 else ""
    return replace(plan, adapters=tuple(adapters), chat_adapter=chat_adapter, leader_address=leader)


def _declared(workspace: Workspace, parts: Parts) -> list[contract.Adapter]:
    """Add what brings the declared adapters: a fetch for an image, a mount for a volume."""
    given: Sequence[Adapter] = workspace.inference.adapters if workspace.inference else ()
    if any(adapter.source and adapter.source.image for adapter in given):
        _adapter_folder(parts)
    declared: list[contract.Adapter] = []
    for adapter in given:
        source = adapter.source
        if source is None:
            continue  # refused by the schema
        if source.image:
            _fetch_adapter(parts, source.name, source.image, source.image_pull_secrets)
        else:
            volume, path = dict(source.volume_source or {}), f"{contract.ADAPTER_DIR}/{source.name}"
            parts.volume(f"adapter-volume-{len(declared)}", volume, path, read_only=True)
        declared.append(contract.Adapter(source.name, float(adapter.strength or 1)))
    return declared


def _tuned(workspace: Workspace, parts: Parts, tuned: Tuned | None) -> list[contract.Adapter]:
    """Add what brings the tuned adapter; the Secret that pushed it pulls it."""
    if tuned is None:
        return []
    name = workspace.metadata.name
    if tuned.output.image:
        _adapter_folder(parts)
        secrets = (tuned.output.image_push_secret,) if tuned.output.image_push_secret else ()
        _fetch_adapter(parts, name, tuned.image, secrets)
    else:
        volume = dict(tuned.output.volume_source or {})
        parts.volume("tuned-adapter", volume, f"{contract.ADAPTER_DIR}/{name}", read_only=True)
    return [contract.Adapter(name)]


def _adapter_folder(parts: Parts) -> None:
    parts.volume("adapter-volume", {"emptyDir": {}}, contract.ADAPTER_DIR)


def _fetch_adapter(parts: Parts, name: str, image: str, secrets: Sequence[str]) -> None:
    words = ["adapter", "--image", image, "--to", f"{contract.ADAPTER_DIR}/{name}", *parts.auth(secrets)]
    # A container's name has 63 characters and no dots; the adapter's name may be longer and have some.
    parts.init.append(
        pods.init_container(f"fetch-adapter-{sum('adapter' in each['name'] for each in parts.init)}", words)
    )


def _probe(path: str, *, period: int, failures: int) -> BODY:
    return {
        "httpGet": {"path": path, "port": contract.STATUS_PORT},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 10,
    }


def _doing(found: Sequence[Pod], live: contract.Status | None) -> str:
    """Say what a server that starts is doing."""
    if live is not None:
        amount = f" {live.bytes_done >> 20} of {live.bytes_total >> 20} MiB" if live.bytes_total else ""
        return f"pod {found[0].metadata.name}: {live.phase}{amount}"
    return stage(found[0]) if found else "waiting for pods"


def _immutable(error: Invalid) -> bool:
    """Whether the API server refused because a field of a StatefulSet's spec can never change."""
    causes = error.details.get("causes")
    found = causes if isinstance(causes, list) else []
    return any(cause.get("field") == "spec" and cause.get("reason") == "FieldValueForbidden" for cause in found)
