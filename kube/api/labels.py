"""Every label, annotation, finalizer and taint key that is read or written. KAITO's and Karpenter's names are kept to the letter."""

# KAITO (reference: api/v1beta1/labels.go, pkg/utils/consts)
WORKSPACE = "kaito.sh/workspace"
WORKSPACE_NAMESPACE = "kaito.sh/workspacenamespace"
WORKSPACE_UID = "kaito.sh/workspace-uid"  # ours: tells a namesake's leftovers from our own
RAGENGINE = "kaito.sh/ragengine"
RAGENGINE_NAMESPACE = "kaito.sh/ragenginenamespace"
# KAITO strips these from the user's matchLabels: they say whose a node is, and that is not the user's to say.
RESERVED = (
    *(WORKSPACE, WORKSPACE_NAMESPACE, WORKSPACE_UID, RAGENGINE, RAGENGINE_NAMESPACE),
    *("karpenter.kaito.sh/workspace-name", "karpenter.kaito.sh/workspace-namespace"),
    *("karpenter.kaito.sh/inferenceset", "karpenter.kaito.sh/inferenceset-namespace"),
)
WORKSPACE_FINALIZER = "workspace.finalizer.kaito.sh"
ENABLE_LOAD_BALANCER = "kaito.sh/enablelb"
NODE_IMAGE_FAMILY = "kaito.sh/node-image-family"
UPGRADE_TO_VERSION = "kaito.sh/upgrade-to-version"
MACHINE_TYPE = "kaito.sh/machine-type"
CREATION_TIMESTAMP = "kaito.sh/creation-timestamp"
ORDINAL = "kaito.sh/ordinal"  # ours, on NodeClaims: which of the Workspace's nodes it is for
INPUTS = "kaito.sh/inputs"  # ours: hash of what an object was rendered from; the same inputs are not rendered again
CONFIG_HASH = "kaito.sh/config-hash"  # ours: hash of the ConfigMap that a pod mounts; a new one rolls the pods
AZURE_SKU = "karpenter.azure.com/sku-name"
AZURE_SPOT = "kubernetes.azure.com/scalesetpriority"
NODE_CLASS = "kaito.sh/kaitonodeclass"  # on nodes: <group>/<lower-case kind> of the class, as Karpenter labels them
LAUNCH_TIME = "kaito.sh/launch-time"  # ours, on NodeClaims: when the last create request was about to be sent
LAUNCH_ATTEMPTS = "kaito.sh/launch-attempts"  # ours, on NodeClaims: pools that came up broken so far

# Karpenter v1
NODEPOOL = "karpenter.sh/nodepool"
CAPACITY_TYPE = "karpenter.sh/capacity-type"
REGISTERED = "karpenter.sh/registered"
INITIALIZED = "karpenter.sh/initialized"
DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"
DO_NOT_SYNC_TAINTS = "karpenter.sh/do-not-sync-taints"
TERMINATION_TIMESTAMP = "karpenter.sh/nodeclaim-termination-timestamp"
TERMINATION_FINALIZER = "karpenter.sh/termination"
DISRUPTED_TAINT = "karpenter.sh/disrupted"
UNREGISTERED_TAINT = "karpenter.sh/unregistered"

# Kubernetes and AKS
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
ZONE = "topology.kubernetes.io/zone"
OS = "kubernetes.io/os"
ARCH = "kubernetes.io/arch"
COMPONENT = "app.kubernetes.io/component"  # tells a Workspace's inference pods from its tuning pods
MANAGED_BY = "app.kubernetes.io/managed-by"
POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"
EXCLUDE_BALANCERS = "node.kubernetes.io/exclude-from-external-load-balancers"
AKS_AGENTPOOL = "kubernetes.azure.com/agentpool"

# NVIDIA: the device plugin's resource, by convention a taint key too, and the labels of GPU feature discovery
NVIDIA_GPU = "nvidia.com/gpu"
GPU_COUNT = "nvidia.com/gpu.count"
GPU_MEMORY = "nvidia.com/gpu.memory"  # MiB of each
GPU_PRODUCT = "nvidia.com/gpu.product"
GPU_COMPUTE_MAJOR = "nvidia.com/gpu.compute.major"
GPU_COMPUTE_MINOR = "nvidia.com/gpu.compute.minor"

# The taint on GPU nodes that KAITO's NodeClaims carry and its pods tolerate
SKU_TAINT_KEY = "sku"
SKU_TAINT_VALUE = "gpu"
