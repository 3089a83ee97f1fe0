"""From a Workspace's words to a decision, before anything that costs money: model, instance types, configuration.

Reads what the planner may not: the ConfigMap that the Workspace refers to, and the labels of nodes that exist already.
The arithmetic is `controller.sizing`'s; a refusal carries the condition's reason and says what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from controller import catalogue, options
from controller.catalogue import Model, Sku
from controller.plan import Configuration, Plan, Refusal, choose, find_model, find_sku, plan, sku_of_labels
from controller.selection import matching
from controller.settings import Settings
from controller.world import World, digest
from kube.api import labels
from kube.api.reasons import Reason
from kube.api.workload import ConfigMap, Node
from kube.api.workspace import InferenceSpec, ModelStatus, PlanStatus, Preset, TuningSpec, Workspace
from runtime import contract

CUSTOM_DISK_GIB = 1024  # KAITO's, for templates whose needs nobody knows


@dataclass(frozen=True)
class Rung:
    """One instance type that will do, with its plan. A custom template has no plan."""

    instance_type: str
    nodes: int
    gpus_per_node: int
    gpu_resource: str
    disk_gib: int
    plan: Plan | None = None

    def status(self) -> PlanStatus:
        """Return what the user sees of it."""
        return PlanStatus(
            instance_type=self.instance_type,
            nodes=self.nodes,
            gpus_per_node=self.gpus_per_node,
            tensor_parallel_size=self.plan.tensor_parallel_size if self.plan else 0,
            pipeline_parallel_size=self.plan.pipeline_parallel_size if self.plan else 0,
            context_tokens=self.plan.context if self.plan else 0,
            disk_gib=self.disk_gib,
        )


@dataclass(frozen=True)
class Weights:
    """Where a model's files come from: an image, else the hub."""

    image: str = ""
    hub_id: str = ""
    revision: str = ""
    pull_secrets: tuple[str, ...] = ()
    token_secret: str = ""
    size: int = 0  # bytes


@dataclass(frozen=True)
class Decision:
    """What this Workspace gets. `rungs` are its instance types in order; `current` is the one in force."""

    rungs: tuple[Rung, ...]
    current: int = 0
    model: ModelStatus | None = None
    weights: Weights = Weights()
    config_name: str = ""
    config_hash: str = ""

    @property
    def rung(self) -> Rung:
        return self.rungs[self.current]

    def following(self) -> Rung | None:
        """Return the rung to try when this one's nodes cannot be had: the next, and after the last the first again."""
        return self.rungs[(self.current + 1) % len(self.rungs)] if len(self.rungs) > 1 else None


async def decide(world: World, workspace: Workspace) -> Decision | Refusal:
    """Decide from what is known now. Asks the cluster for nothing but the one ConfigMap, and that only the first time."""
    spec = workspace.inference or workspace.tuning
    if spec is None:
        return Refusal(Reason.PLAN_FAILED, "neither inference nor tuning is specified")
    if isinstance(spec, InferenceSpec) and spec.preset is None:
        return _place(world, workspace, Decision(rungs=()), None, Configuration())
    config = await _config(world, workspace, spec)
    if isinstance(config, Refusal):
        return config
    preset = spec.preset or Preset(name="")
    model = find_model(preset.name)
    if isinstance(model, Refusal):
        return model
    weights = _weights(world.settings, model, preset)
    if model.gated and not weights.image and not weights.token_secret:
        message = f"{model.hub_id} is gated: name a Secret with {contract.HUB_TOKEN_KEY} in modelAccessSecret"
        return Refusal(Reason.MODEL_ACCESS_REQUIRED, message)
    wanted = _configuration(world.settings, workspace, config)
    if isinstance(wanted, Refusal):
        return wanted
    decision = Decision(
        rungs=(),
        model=ModelStatus(id=model.hub_id, revision=weights.revision),
        weights=weights,
        config_name=spec.config,
        config_hash=digest(dict(config)) if spec.config else "",
    )
    return _place(world, workspace, decision, model, wanted)


async def _config(world: World, workspace: Workspace, spec: InferenceSpec | TuningSpec) -> Mapping[str, str] | Refusal:
    """Read the ConfigMap that the Workspace refers to; nothing where it refers to none."""
    if not spec.config:
        world.configs.forget(workspace.metadata.key)
        return {}
    found: ConfigMap | None = await world.configs.get(workspace.metadata.key, spec.config)
    if found is None:
        message = f"ConfigMap {spec.config} does not exist in namespace {workspace.metadata.namespace}"
        return Refusal(Reason.CONFIG_MAP_MISSING, message)
    key = config_key(workspace)
    if key not in found.data:
        return Refusal(Reason.CONFIG_INVALID, f"ConfigMap {spec.config} has no key {key}")
    return found.data


def config_key(workspace: Workspace) -> str:
    """Return the ConfigMap's key that counts."""
    return contract.INFERENCE_CONFIG if workspace.inference is not None else contract.TRAINING_CONFIG


def _configuration(settings: Settings, workspace: Workspace, config: Mapping[str, str]) -> Configuration | Refusal:
    """Gather what the planner needs from the Workspace and its ConfigMap."""
    given = _parsed(config.get(config_key(workspace), ""), config_key(workspace))
    if isinstance(given, Refusal):
        return given
    wanted = Configuration(accelerator=settings.accelerator, nodes=workspace.resource.count or 0)
    check = options.inference_problem if workspace.tuning is None else options.training_problem
    if problem := check(given):
        return Refusal(Reason.CONFIG_INVALID, f"{config_key(workspace)}: {problem}")
    try:
        if workspace.tuning is None:
            return replace(wanted, context=_number(given, "vllm", "max-model-len", "max_model_len"))
        sections = given.get(options.TRAINING_ROOT) or {}
        return replace(
            wanted,
            serve=workspace.tuning.on_success != "Release",
            method=workspace.tuning.method.lower() or "qlora",
            lora_rank=_number(sections, "LoraConfig", "r"),
            micro_batch=_number(sections, "TrainingArguments", "per_device_train_batch_size"),
            max_length=_number(sections, "TrainingArguments", "max_length", "max_seq_length"),
        )
    except ValueError as error:
        return Refusal(Reason.CONFIG_INVALID, f"{config_key(workspace)}: {error}")


def _parsed(text: str, key: str) -> Mapping[str, Any] | Refusal:
    """Parse a config file, as far as a map at its top."""
    try:
        document = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        return Refusal(Reason.CONFIG_INVALID, f"{key}{where}: not YAML: {getattr(error, 'problem', error)}")
    if document is not None and not isinstance(document, dict):
        return Refusal(Reason.CONFIG_INVALID, f"{key}: a mapping is expected at the top")
    return document or {}


def _number(given: Mapping[str, Any], section: str, *names: str) -> int:
    """Return a positive number from a section, 0 where it is absent. Raises ValueError with the place of a wrong one."""
    values = given.get(section) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{section}: a mapping is expected")
    for name in names:
        if name in values:
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isdecimal():
                raise ValueError(f"{section}.{name}: a whole number is expected, not {value!r}")
            return int(value)
    return 0


def _weights(settings: Settings, model: Model, preset: Preset) -> Weights:
    """Choose where the weights come from: the user's image, the registry's, the hub."""
    options = preset.preset_options
    return Weights(
        image=options.image or model.image(settings.weights_registry),
        hub_id=model.hub_id,
        revision=preset.revision or model.revision,
        pull_secrets=options.image_pull_secrets,
        token_secret=options.model_access_secret,
        size=model.weights,
    )


def _place(
    world: World, workspace: Workspace, decision: Decision, model: Model | None, wanted: Configuration
) -> Decision | Refusal:
    """Add the rungs to a decision, and turn to the one that was chosen before."""
    if world.settings.byo:
        rungs = _existing(world, workspace, model, wanted)
    else:
        rungs = _provisioned(workspace, model, wanted, in_use=_in_use(world, workspace))
    if isinstance(rungs, Refusal):
        return rungs
    chosen = _planned_on(workspace)
    names = [rung.instance_type for rung in rungs]
    return replace(decision, rungs=rungs, current=names.index(chosen) if chosen in names else 0)


def _provisioned(
    workspace: Workspace, model: Model | None, wanted: Configuration, in_use: Sequence[str] = ()
) -> tuple[Rung, ...] | Refusal:
    """Plan on each instance type that the user names, in order; without any, the planner chooses and stays with it.

    One `in_use` that the user names no more comes last, and is kept for as long as a node of it is ready.
    """
    resource = workspace.resource
    named = (resource.instance_type, *resource.instance_types, *in_use)
    names = [name for name in dict.fromkeys(named) if name]
    if not names and model is None:
        return Refusal(Reason.INSTANCE_TYPE_UNKNOWN, "a custom template needs resource.instanceType")
    if not names and model is not None and not (names := _chosen_before(workspace)):
        best = choose(model, wanted)
        return best if isinstance(best, Refusal) else (_rung(best.sku, best),)
    skus = [find_sku(name) for name in names]
    if unknown := next((sku for sku in skus if isinstance(sku, Refusal)), None):
        return unknown  # also of an alternative: a typo is best found before it is needed
    return _fitting([sku for sku in skus if isinstance(sku, Sku)], workspace, model, wanted)


def _planned_on(workspace: Workspace) -> str:
    """Return the instance type of the stored plan."""
    return workspace.status.plan.instance_type if workspace.status.plan else ""


def _chosen_before(workspace: Workspace) -> list[str]:
    """Return the instance type that the planner chose when this Workspace was new: another release may choose another."""
    chosen = _planned_on(workspace)
    return [chosen] if catalogue.sku(chosen) else []


def _in_use(world: World, workspace: Workspace) -> list[str]:
    """Return the chosen instance type where nodes of it are ready: an edit steers only the creation of others."""
    ready = {claim.instance_type for claim in world.claims_of(workspace) if claim.ready and not claim.metadata.deleting}
    return [name for name in _chosen_before(workspace) if name in ready]


def _fitting(
    skus: Sequence[Sku], workspace: Workspace, model: Model | None, wanted: Configuration
) -> tuple[Rung, ...] | Refusal:
    """Return a rung for each instance type that fits. The first's refusal stands for all when none does."""
    if model is None:
        return tuple(_custom(sku, workspace) for sku in skus)
    plans = [(sku, plan(model, sku, wanted)) for sku in skus]
    fitting = tuple(_rung(sku, found) for sku, found in plans if isinstance(found, Plan))
    return fitting or next(found for _, found in plans if isinstance(found, Refusal))


def _existing(
    world: World, workspace: Workspace, model: Model | None, wanted: Configuration
) -> tuple[Rung, ...] | Refusal:
    """Plan on the nodes that the selector chooses, which must be alike."""
    nodes = matching(world.nodes.all(), workspace)
    if not nodes:
        return Refusal(Reason.NO_MATCHING_NODES, "no node matches resource.labelSelector")
    skus = {node.metadata.name: _sku_of(node, wanted) for node in nodes}
    if blind := sorted(name for name, sku in skus.items() if sku is None):
        message = f"node {blind[0]} does not say what GPUs it has: install GPU feature discovery, or label it"
        return Refusal(Reason.NODE_PLUGINS_NOT_READY, message)
    kinds = {(sku.gpu, sku.gpus, sku.usable) for sku in skus.values() if sku is not None}
    if len(kinds) > 1:
        shown = "; ".join(f"{gpus} of {gpu or 'a GPU'}" for gpu, gpus, _ in sorted(kinds))
        return Refusal(Reason.NODES_NOT_UNIFORM, f"resource.labelSelector chooses nodes with different GPUs: {shown}")
    chosen = _planned_on(workspace)
    known = [sku for sku in skus.values() if sku is not None]
    first = min(known, key=lambda sku: (sku.instance_type != chosen, sku.instance_type))  # however they are listed
    return _fitting([first], workspace, model, wanted)


def _sku_of(node: Node, wanted: Configuration) -> Sku | None:
    """Return a node's GPUs by its feature labels, else by its instance type; on CPU by its device plugin's count."""
    marks = node.metadata.labels
    known = sku_of_labels(marks) or catalogue.sku(marks.get(labels.INSTANCE_TYPE, ""))
    offered = node.status.allocatable.get(labels.NVIDIA_GPU, "0")
    if known is None and wanted.accelerator == contract.Accelerator.CPU and offered.isdecimal() and int(offered):
        return Sku(instance_type=marks.get(labels.INSTANCE_TYPE, ""), gpu="", gpus=int(offered), usable=0)
    return known


def _rung(sku: Sku, found: Plan) -> Rung:
    return Rung(sku.instance_type, found.nodes, sku.gpus, sku.resource, found.disk_gib, found)


def _custom(sku: Sku, workspace: Workspace) -> Rung:
    return Rung(sku.instance_type, workspace.resource.count or 1, sku.gpus, sku.resource, CUSTOM_DISK_GIB)
