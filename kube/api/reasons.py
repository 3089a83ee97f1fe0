"""The closed lists of reasons on conditions, each with its next step. The docs page is generated from them.

KAITO's and Karpenter's reasons keep their spelling. `Reason` is a Workspace's, where a NodeClaim's are shown as its provisioner
wrote them; `ClaimReason` and `Disruption` are those of ours. The last group of `Reason` repeats `runtime.contract.Reason`,
which this package may not import; a test holds the two together.
"""

import enum


class Reason(enum.StrEnum):
    """A value is what the user reads in the REASON column; `next_step` is the sentence of the docs page."""

    next_step: str

    def __new__(cls, value: str, next_step: str) -> "Reason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.next_step = next_step
        return member

    # The root
    SUCCEEDED = "workspaceSucceeded", "Nothing: the model answers at `status.endpoint`."
    PENDING = "workspacePending", "Wait; the other conditions say what for."
    TUNING = "Tuning", "Wait; `status.tuning` shows the step, the loss and the time left."
    DELETING = "Deleting", "Wait; the message names what is still being removed."
    DELETED = "workspaceDeleted", "Wait; the message names what is still being removed."

    # The plan, before anything is paid for
    PLAN_FAILED = (
        "PlanFailed",
        "Choose one of the instance types in the message, or a shorter context; it shows the bytes needed.",
    )
    INSTANCE_TYPE_UNKNOWN = "InstanceTypeUnknown", "Correct `resource.instanceType`; the message has the nearest names."
    INSTANCE_TYPE_UNSUPPORTED = (
        "InstanceTypeUnsupported",
        "Choose the instance type in the message: this one's GPU cannot run the runtime.",
    )
    PRESET_UNKNOWN = (
        "PresetUnknown",
        "Correct the preset's name; the message has the nearest names. The hub id of a preset is accepted too.",
    )
    PRESET_RETIRED = "PresetRetired", "Use the successor in the message."
    MODEL_UNRESOLVED = (
        "ModelUnresolved",
        "Choose a model of the catalogue; the message has the nearest names. Hub ids outside it are not supported yet.",
    )
    MODEL_ACCESS_REQUIRED = (
        "ModelAccessRequired",
        "Accept the model's licence on the hub and name a Secret with HF_TOKEN in `presetOptions.modelAccessSecret`.",
    )
    CONFIG_MAP_MISSING = "ConfigMapMissing", "Create the ConfigMap that the message names; it is noticed at once."
    NO_MATCHING_NODES = "NoMatchingNodes", "Label nodes as `resource.labelSelector` asks, or correct the selector."
    NODES_NOT_UNIFORM = "NodesNotUniform", "Narrow `resource.labelSelector` to nodes with the same GPUs."

    # Nodes
    RESOURCES_READY = "workspaceResourceStatusSuccess", "Nothing: all nodes are ready with their GPUs."
    RESOURCES_NOT_READY = "workspaceResourceStatusNotReady", "Wait; the message says which node is awaited."
    NODES_READY = "NodesReady", "Nothing: all nodes are ready."
    NODE_NOT_READY = "NodeNotReady", "Wait; if it lasts, look at the node with `kubectl describe node`."
    NODE_PLUGINS_NOT_READY = (
        "NodePluginsNotReady",
        "Wait for the GPU device plugin; if it lasts, check that it is installed and tolerates the node's taints.",
    )
    NODE_CLAIMS_READY = "NodeClaimsReady", "Nothing: all NodeClaims are ready."
    NODE_CLAIM_NOT_READY = "NodeClaimNotReady", "Wait; `kubectl describe nodeclaim` shows the progress."
    NODE_CLAIM_REJECTED = (
        "NodeClaimRejected",
        "The API server refused the NodeClaim; the message has its words. It is tried again.",
    )
    NODE_CLAIM_CRD_MISSING = (
        "NodeClaimCrdMissing",
        "Install the NodeClaim CRD and a provisioner, or run the controller with `--node-provisioner=byo`.",
    )
    PROVISIONING_TIMED_OUT = (
        "ProvisioningTimedOut",
        "Choose other instance types or zones, or raise `resource.provisioning.timeout`.",
    )
    RELEASED = "Released", "Nothing: the nodes were given back after tuning."

    # Tuning
    JOB_STARTED = "WorkspaceTuningJobStatusStarted", "Nothing: training has begun."
    JOB_PENDING = "WorkspaceTuningJobStatusPending", "Wait; the message says what the Job waits for."
    JOB_FAILED = (
        "WorkspaceTuningJobStatusFailed",
        "Read the message; after correcting the Workspace the training starts anew.",
    )
    TUNED = "Tuned", "Nothing: the result was pushed; `status.tuning.artifact` has its digest."

    # Serving, and the pods of both
    INFERENCE_READY = "WorkspaceInferenceStatusSuccess", "Nothing: the model answers."
    INFERENCE_PENDING = "WorkspaceInferenceStatusPending", "Wait; the message says what the pods are doing."
    OOM_KILLED = (
        "ContainerOOMKilled",
        "The container needed more memory than the node had: choose a larger instance type.",
    )
    IMAGE_PULL_ERROR = (
        "ImagePullError",
        "Check the image's name and its pull secret; the message has the registry's words.",
    )
    CONTAINER_START_ERROR = (
        "ContainerStartError",
        "Read the message; most often a volume, a ConfigMap or a command does not exist.",
    )
    CRASH_LOOP = "ContainerCrashLoopBackOff", "Read the pod's log: `kubectl logs --previous`."
    POD_EVICTED = "PodEvicted", "A new pod is made; if it repeats, choose a larger instance type."
    NODE_DISK_PRESSURE = (
        "NodeDiskPressure",
        "The node's disk is full: remove what else runs there, or choose a larger instance type.",
    )
    NODE_MEMORY_PRESSURE = (
        "NodeMemoryPressure",
        "The node's memory is short: remove what else runs there, or choose a larger instance type.",
    )
    UNSCHEDULABLE = (
        "Unschedulable",
        "The message has the scheduler's words; most often a selector or a taint does not match.",
    )
    NAME_CONFLICT = "NameConflict", "Another object of this name exists and is not ours: rename it or the Workspace."

    # What the programs in the pods report (runtime.contract.Reason)
    CONFIG_INVALID = "ConfigInvalid", "Correct the ConfigMap's key that the message names; it is noticed at once."
    DATASET_INVALID = (
        "DatasetInvalid",
        "Correct the data: the message names the file, the row and the columns that are expected.",
    )
    DATA_UNREACHABLE = "DataUnreachable", "Check the URL in the message; it is tried again."
    DATA_FORBIDDEN = (
        "DataAddressForbidden",
        "The URL leads to a private address: use a public one, or allow the range with `--allowed-address-ranges`.",
    )
    WEIGHTS_UNREACHABLE = (
        "WeightsUnreachable",
        "Check that nodes can reach the registry or hub in the message; it is tried again.",
    )
    ADAPTER_UNREACHABLE = "AdapterUnreachable", "Check the adapter's image and its pull secret; it is tried again."
    ADAPTER_INVALID = (
        "AdapterInvalid",
        "The adapter does not fit the model: use one that was tuned from the same preset.",
    )
    PULL_UNAUTHORIZED = "PullUnauthorized", "The registry refused the credentials: correct the Secret in the message."
    SECRET_MISSING = (
        "SecretMissing",
        "Create the Secret that the message names, with the key that it names, in the Workspace's namespace.",
    )
    MODEL_UNSUPPORTED = (
        "ModelUnsupported",
        "The runtime cannot load this model: choose another, or, if its authors ask for it, set `trust-remote-code` in"
        " inference_config.yaml, below `vllm`, or `ModelConfig.trust_remote_code` in training_config.yaml.",
    )
    ACCELERATOR_MISSING = (
        "AcceleratorMissing",
        "No GPU is usable in the pod: check the device plugin and the driver of the node in the message.",
    )
    OUT_OF_MEMORY = "GpuOutOfMemory", "Lower the context length or the batch size, or choose a larger instance type."
    ENGINE_FAILED = (
        "EngineFailed",
        "Read the message and the pod's log; most often an engine option does not fit the model.",
    )
    TRAINER_FAILED = (
        "TrainerFailed",
        "Read the message and the pod's log; correct the training options and the training starts anew.",
    )
    PUSH_UNAUTHORIZED = (
        "PushUnauthorized",
        "The registry refused the credentials of `output.imagePushSecret`: correct the Secret.",
    )
    PUSH_DENIED = (
        "PushDenied",
        "The account may not push to this repository: grant it, or choose another `output.image`.",
    )
    REGISTRY_UNAVAILABLE = (
        "RegistryUnavailable",
        "Check that nodes can reach the registry in the message; the push is tried again.",
    )
    PREEMPTED = "Preempted", "Nothing: training resumes from its checkpoint on the next node."
    LOSS_NOT_FINITE = "LossNotFinite", "The training diverged: lower the learning rate and check the data."
    INTERNAL = "InternalError", "Please report it, with the pod's log."


class ClaimReason(enum.StrEnum):
    """Why a NodeClaim is not ready yet, or not gone yet. With `ends` the claim may fail for it, for good."""

    meaning: str
    ends: bool

    def __new__(cls, value: str, meaning: str, ends: bool = False) -> "ClaimReason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.ends = ends
        return member

    AWAITING_RECONCILIATION = (
        "AwaitingReconciliation",
        "Nobody has looked at the claim yet. Wait; if it lasts, check that the provisioner runs.",
    )

    # Launched: what Azure answers is a class of `provisioner.cloud` each
    CREATING = "Creating", "The machine is being created, or Azure has yet to answer; the message says which. Wait."
    NODE_CLASS_NOT_READY = (
        "NodeClassNotReady",
        "The claim names a KaitoNodeClass that does not exist. Create it; it is looked for every ten seconds.",
    )
    CLUSTER_BUSY = "ClusterBusy", "Another operation on the cluster is in progress. Wait: the request is sent again."
    CLUSTER_NOT_RUNNING = (
        "ClusterNotRunning",
        "The cluster is stopped, starting or stopping; until it runs nothing is created, deleted or repaired.",
    )
    CLUSTER_NOT_FOUND = (
        "ClusterNotFound",
        "There is no such managed cluster. Correct subscription, resource group and cluster name in the provisioner's"
        " settings; until then nothing is created, and no claim is let go.",
    )
    THROTTLED = "Throttled", "Azure limits our requests. Wait: all of them are held back for as long as it asks."
    SUBNET_FULL = (
        "SubnetFull",
        "The subnet has no addresses left. Free some, or give the node class a larger subnet; it is tried again.",
    )
    UNAUTHORIZED = (
        "Unauthorized",
        "Azure does not know the provisioner's identity, or it lacks a role. Grant it; it is tried every five minutes.",
    )
    POLICY_DENIED = (
        "PolicyDenied",
        "Azure Policy forbids the machine. Ask the policy's owner; it is tried every five minutes.",
    )
    INSUFFICIENT_CAPACITY = (
        "InsufficientCapacity",
        "Azure has no such machine left, or does not sell it here. Allow other sizes, zones or capacity types, or try later.",
        True,
    )
    QUOTA_EXCEEDED = (
        "QuotaExceeded",
        "The subscription may not have more of these. Request an increase with the numbers in the message.",
        True,
    )
    INVALID_SPEC = (
        "InvalidSpec",
        "The claim or its node class asks for what cannot be. Correct it: a claim must be made anew.",
        True,
    )
    BOOTSTRAP_FAILED = (
        "BootstrapFailed",
        "The machine was made but did not come up, twice. Check outbound access and the node image.",
        True,
    )
    NAME_CONFLICT = (
        "NameConflict",
        "An agent pool of this name was not made for the claim. Delete the claim; its owner makes one under another name.",
        True,
    )
    LAUNCH_TIMEOUT = (
        "LaunchTimeout",
        "There was no machine in time. Remove the last obstacle, which the message names; the claim's owner makes another.",
        True,
    )

    # Registered and Initialized
    NODE_NOT_FOUND = "NodeNotFound", "The node is not in the cluster, or not any more. Wait."
    REGISTRATION_TIMEOUT = (
        "RegistrationTimeout",
        "No node of the machine joined the cluster in time. Check that its subnet reaches the API server.",
        True,
    )
    NODE_NOT_READY = "NodeNotReady", "Wait; if it lasts, look at the node with `kubectl describe node`."
    STARTUP_TAINTS_EXIST = (
        "StartupTaintsExist",
        "The message names a start-up taint of the claim; whoever takes it from the node has yet to do so.",
    )
    KNOWN_EPHEMERAL_TAINTS_EXIST = (
        "KnownEphemeralTaintsExist",
        "The node is still coming up: kubelet or cloud provider have yet to take the taint away. Wait.",
    )
    RESOURCE_NOT_REGISTERED = (
        "ResourceNotRegistered",
        "The node does not offer yet what was requested. If it lasts, check that the GPU device plugin runs there.",
    )
    INITIALIZATION_TIMEOUT = (
        "InitializationTimeout",
        "The node could not be used in time; the message names what was missing.",
        True,
    )

    # Drained, VolumesDetached and InstanceTerminating
    DRAINING = (
        "Draining",
        "Pods leave before the machine does; the message names them. A disruption budget or"
        " `karpenter.sh/do-not-disrupt` may hold them.",
    )
    AWAITING_VOLUME_DETACHMENT = "AwaitingVolumeDetachment", "Wait; the message names the volumes."
    TERMINATION_GRACE_PERIOD_ELAPSED = (
        "TerminationGracePeriodElapsed",
        "Nothing: the claim's grace period is over, and the machine goes with its volumes attached.",
    )
    DELETION_FAILED = (
        "DeletionFailed",
        "Azure began to delete the agent pool and failed. Remove what the message names, such as a lock; it is tried again.",
    )


class Disruption(enum.StrEnum):
    """Why a claim is ended whose owner still wants it: the reason of DisruptionReason."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> "Disruption":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    INSTANCE_NOT_FOUND = "InstanceNotFound", "The agent pool no longer exists: somebody deleted it, or Azure took it."
    NODE_DELETED = "NodeDeleted", "Somebody deleted the node."
    UNHEALTHY = "Unhealthy", "The node was not ready, or was missing, for ten minutes."
