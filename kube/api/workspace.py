"""The Workspace kind, `kaito.sh/v1beta1`: KAITO's fields to the letter, and the few that we add.

KAITO gave it no `spec`: `resource`, `inference` and `tuning` stand at the top. v1alpha1 is the same type with one default
more (`hack/generate` knows it); objects are stored as v1beta1. Says nothing about how a Workspace is reconciled, and
leaves pod templates and volume sources as the JSON that the user wrote.
"""

import enum
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from kube.api.schema import field
from kube.meta import Condition, Object, Resource, Wire

GROUP = "kaito.sh"
NAME_LIMIT = 52  # a StatefulSet's controller-revision-hash label is the name, a dash and ten characters, of 63

Json = Mapping[str, Any]
SecretName = Annotated[str, field("Name of a Secret in the Workspace's namespace.", maxLength=253)]
Image = Annotated[str, field("An image reference, as docker pull takes it.", maxLength=1024)]


class ConditionType(enum.StrEnum):
    """Types in `status.conditions`. WORKSPACE_READY is the root; READY and WORKSPACE_SUCCEEDED always repeat it."""

    NODE_CLAIM_READY = "NodeClaimReady"
    NODES_READY = "NodesReady"
    RESOURCE_READY = "ResourceReady"
    JOB_STARTED = "JobStarted"
    TUNED = "Tuned"  # ours; once True it is never taken back, whatever becomes of the Job
    INFERENCE_READY = "InferenceReady"
    WORKSPACE_READY = "WorkspaceReady"  # the seed's
    READY = "Ready"  # kstatus: kubectl wait, Flux, Argo CD
    WORKSPACE_SUCCEEDED = "WorkspaceSucceeded"  # KAITO's clients
    WORKSPACE_DELETING = "WorkspaceDeleting"


class State(enum.StrEnum):
    """`status.state`: KAITO's one-word summary."""

    PENDING = "Pending"
    READY = "Ready"
    NOT_READY = "NotReady"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class OnSuccess(enum.StrEnum):
    """What follows a tuning that succeeded: serve its result on the same nodes, or give the nodes back."""

    SERVE = "Serve"
    RELEASE = "Release"


class CapacityType(enum.StrEnum):
    SPOT = "spot"
    ON_DEMAND = "on-demand"


class LabelSelectorRequirement(Wire, frozen=True, kw_only=True):
    key: Annotated[str, field("The label's key.", required=True, maxLength=316)]
    operator: Annotated[
        str, field("How the values are compared.", required=True, enum=["In", "NotIn", "Exists", "DoesNotExist"])
    ]
    values: Annotated[
        tuple[Annotated[str, field("", maxLength=63)], ...], field("Values to compare with.", maxItems=50)
    ] = ()


class LabelSelector(Wire, frozen=True, kw_only=True):
    match_labels: Annotated[
        Mapping[str, Annotated[str, field("", maxLength=63)]],
        field("Labels that nodes carry. New nodes are given them.", maxProperties=50),
    ] = {}
    match_expressions: Annotated[
        tuple[LabelSelectorRequirement, ...], field("Conditions on node labels, all of which must hold.", maxItems=20)
    ] = ()


class Partition(Wire, frozen=True, kw_only=True):
    mode: Annotated[str, field("How one GPU is shared.", enum=["mig", "accelerator"])] = ""
    profile: Annotated[str, field("MIG profile, such as 1g.10gb.", maxLength=32)] = ""
    count: Annotated[int | None, field("Share of the accelerator; in accelerator mode only.", minimum=1)] = None


class Provisioning(Wire, frozen=True, kw_only=True):
    timeout: Annotated[
        str,
        field(
            "How long to wait for nodes of one instance type before the next is tried, such as 30m.",
            maxLength=16,
            pattern=r"^([0-9]+(s|m|h))+$",
        ),
    ] = ""


class ResourceSpec(Wire, frozen=True, kw_only=True):
    label_selector: Annotated[LabelSelector | None, field("Which nodes may run the workload.", required=True)] = None
    instance_type: Annotated[
        str, field("Instance type of the GPU nodes. Without one the planner chooses.", maxLength=63)
    ] = ""
    count: Annotated[int | None, field("Number of nodes, in place of the planner's.", minimum=1, maximum=64)] = None
    preferred_nodes: Annotated[
        tuple[Annotated[str, field("", maxLength=253)], ...],
        field("Deprecated and without effect, as in KAITO.", maxItems=64),
    ] = ()
    partition: Annotated[Partition | None, field("Part of a GPU; only on nodes that exist already.")] = None
    instance_types: Annotated[
        tuple[Annotated[str, field("", maxLength=63)], ...],
        field("Instance types to try after `instanceType`, in order.", maxItems=10),
    ] = ()
    capacity_types: Annotated[
        tuple[Annotated[CapacityType, field("")], ...],
        field(
            "Capacity types in order of preference; absent means on-demand.", maxItems=2, x_kubernetes_list_type="set"
        ),
    ] = ()
    zones: Annotated[
        tuple[Annotated[str, field("", maxLength=63)], ...],
        field("Zones that nodes may be in; absent means any.", maxItems=10, x_kubernetes_list_type="set"),
    ] = ()
    provisioning: Annotated[Provisioning | None, field("How long to wait for nodes.")] = None


class PresetOptions(Wire, frozen=True, kw_only=True):
    image: Annotated[Image, field("Image with the model's weights, in place of the catalogue's.", maxLength=1024)] = ""
    image_pull_secrets: Annotated[tuple[SecretName, ...], field("Secrets that may pull that image.", maxItems=10)] = ()
    model_access_secret: Annotated[
        SecretName, field("Secret whose key HF_TOKEN opens a gated model.", maxLength=253)
    ] = ""


class Preset(Wire, frozen=True, kw_only=True):
    name: Annotated[
        str, field("A preset's name, or a hub id such as org/model.", required=True, maxLength=128, minLength=1)
    ]
    revision: Annotated[
        str, field("Commit or tag of the model; absent means the catalogue's, else the newest.", maxLength=128)
    ] = ""
    access_mode: Annotated[
        str, field("Deprecated: where the weights image is.", enum=["public", "private"], default="public")
    ] = ""
    preset_options: Annotated[PresetOptions, field("Where the weights come from.")] = PresetOptions()


class DataSource(Wire, frozen=True, kw_only=True):
    name: Annotated[str, field("Name of the data, or of the adapter.", maxLength=253)] = ""
    urls: Annotated[
        tuple[Annotated[str, field("", maxLength=2048)], ...], field("Files to download.", maxItems=100)
    ] = ()
    volume_source: Annotated[Json | None, field("A volume, as in a pod.")] = None
    image: Annotated[Image, field("Image with the data.", maxLength=1024)] = ""
    image_pull_secrets: Annotated[tuple[SecretName, ...], field("Secrets that may pull that image.", maxItems=10)] = ()


class DataDestination(Wire, frozen=True, kw_only=True):
    volume_source: Annotated[Json | None, field("A volume, as in a pod, that keeps the result.")] = None
    image: Annotated[Image, field("Image reference that the result is pushed to.", maxLength=1024)] = ""
    image_push_secret: Annotated[SecretName, field("Secret that may push that image.", maxLength=253)] = ""


class Adapter(Wire, frozen=True, kw_only=True):
    source: Annotated[DataSource | None, field("Where the adapter is; `source.name` is its name.", required=True)] = (
        None
    )
    strength: Annotated[str, field("Weight of the adapter between 0 and 1, as text.", maxLength=8)] = ""


class InferenceSpec(Wire, frozen=True, kw_only=True):
    preset: Annotated[Preset | None, field("The model to serve.")] = None
    template: Annotated[Json | None, field("A pod template of your own, in place of a preset.")] = None
    config: Annotated[str, field("ConfigMap whose key inference_config.yaml sets engine options.", maxLength=253)] = ""
    adapters: Annotated[tuple[Adapter, ...], field("Adapters to serve beside the model.", maxItems=10)] = ()


class TuningSpec(Wire, frozen=True, kw_only=True):
    preset: Annotated[Preset | None, field("The model to tune.", required=True)] = None
    method: Annotated[str, field("lora or qlora, in any case.", maxLength=16)] = ""
    config: Annotated[str, field("ConfigMap whose key training_config.yaml sets training options.", maxLength=253)] = ""
    input: Annotated[DataSource | None, field("The training data.", required=True)] = None
    output: Annotated[DataDestination | None, field("Where the result goes.", required=True)] = None
    on_success: Annotated[
        OnSuccess | None, field("Serve the result on the same nodes, or release them; absent means Serve.")
    ] = None


class PerformanceMetric(Wire, frozen=True, kw_only=True):
    description: str = ""
    value: str = ""
    unit: str = ""
    config: Mapping[str, str] = {}


class Performance(Wire, frozen=True, kw_only=True):
    metrics: Mapping[str, PerformanceMetric] = {}


class PlanStatus(Wire, frozen=True, kw_only=True):
    """What was decided, once; sizes in GiB, context in tokens."""

    instance_type: str = ""
    nodes: int = 0
    gpus_per_node: int = 0
    tensor_parallel_size: int = 0
    pipeline_parallel_size: int = 0
    context_tokens: int = 0
    disk_gib: Annotated[int, field("Size of each node's OS disk in GiB.")] = msgspec.field(name="diskGiB", default=0)


class ModelStatus(Wire, frozen=True, kw_only=True):
    id: str = ""
    revision: str = ""


class Artifact(Wire, frozen=True, kw_only=True):
    ref: str = ""
    digest: str = ""


class TuningStatus(Wire, frozen=True, kw_only=True):
    step: int = 0
    total_steps: int = 0
    loss: Annotated[str, field("Training loss at that step, as text.")] = ""
    eta: Annotated[str, field("Time to the end of training, such as 12m30s.")] = ""
    checkpoint: Annotated[int, field("Step of the last checkpoint.")] = 0
    artifact: Artifact | None = None


class WorkspaceStatus(Wire, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()
    worker_nodes: Annotated[tuple[str, ...], field("Nodes that the workload may run on, sorted.")] = ()
    state: Annotated[str, field("Summary in one word.", enum=[state.value for state in State])] = ""
    target_node_count: Annotated[int, field("Number of nodes that the plan asks for.", format="int32")] = 0
    performance: Performance | None = None
    endpoint: Annotated[str, field("URL of the inference service inside the cluster.")] = ""
    plan: PlanStatus | None = None
    model: ModelStatus | None = None
    tuning: TuningStatus | None = None


class Workspace(Object, frozen=True, kw_only=True):
    """A model served or tuned on nodes of its own. Exactly one of `inference` and `tuning` is set."""

    resource: Annotated[ResourceSpec, field("Nodes that the workload needs.", required=True)] = ResourceSpec()
    inference: Annotated[InferenceSpec | None, field("Serve a model.")] = None
    tuning: Annotated[TuningSpec | None, field("Tune a model.")] = None
    status: WorkspaceStatus = WorkspaceStatus()


WORKSPACES = Resource(Workspace, GROUP, "v1beta1", "workspaces", "Workspace")
