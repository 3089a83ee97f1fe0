"""What the provisioner counts and measures: Karpenter's names for Karpenter's things, `kaito_…` for what it never measured.

Every series whose labels are known exists from the start, so that an alarm on its increase cannot miss the first one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

from prometheus_client import Counter, Gauge, Histogram

from kube.api.reasons import ClaimReason, Disruption
from kube.clock import Clock, parse_timestamp
from provisioner.cloud import ON_DEMAND, SPOT

PROVIDER = "azure"
METHODS = {"PUT": "Create", "DELETE": "Delete", "GET": "Get", "LIST": "List", "CLUSTER": "GetCluster"}
NODEPOOL = "kaito"  # the label that KAITO's claims and ours carry
LATENCY = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800)

claims_created = Counter("karpenter_nodeclaims_created_total", "Agent pools that were asked for", ["nodepool"])
claims_terminated = Counter(
    "karpenter_nodeclaims_terminated_total", "NodeClaims that are gone with their machine", ["nodepool"]
)
claims_disrupted = Counter(
    "karpenter_nodeclaims_disrupted_total",
    "NodeClaims that we deleted ourselves. Alarm := rate by reason > 0",
    ["reason", "nodepool", "capacity_type"],
)
claim_termination = Histogram(
    "karpenter_nodeclaims_termination_duration_seconds", "Deletion asked → claim gone", ["nodepool"], buckets=LATENCY
)
instance_termination = Histogram(
    "karpenter_nodeclaims_instance_termination_duration_seconds",
    "DELETE of the pool → pool gone",
    ["nodepool"],
    buckets=LATENCY,
)
nodes_created = Counter("karpenter_nodes_created_total", "Nodes that were registered", ["nodepool"])
nodes_terminated = Counter("karpenter_nodes_terminated_total", "Nodes that were let go", ["nodepool"])
nodes_drained = Counter("karpenter_nodes_drained_total", "Nodes that were drained, each counted once", ["nodepool"])
evictions = Counter("karpenter_nodes_eviction_requests_total", "Eviction requests by answer", ["code"])
cloud_duration = Histogram(
    "karpenter_cloudprovider_duration_seconds",
    "Requests to Azure",
    ["controller", "method", "provider"],
    buckets=LATENCY,
)
cloud_errors = Counter(
    "karpenter_cloudprovider_errors_total",
    "Requests that Azure refused, by class. Alarm := QuotaExceeded, Unauthorized or PolicyDenied > 0",
    ["controller", "method", "provider", "error"],
)
arm_requests = Counter("kaito_arm_requests_total", "Requests to ARM by HTTP status; 0 is no answer", ["verb", "code"])
arm_throttled = Counter("kaito_arm_throttled_total", "429 answers. Alarm := increase > 0")
create_to_put = Histogram("kaito_nodeclaim_create_to_put_seconds", "Claim created → PUT answered", buckets=LATENCY)
node_to_registered = Histogram(
    "kaito_nodeclaim_node_to_registered_seconds", "Node created → Registered", buckets=LATENCY
)
ready_latency = Histogram(
    "kaito_nodeclaim_node_ready_to_ready_seconds", "Node ready with its GPUs → claim Ready", buckets=LATENCY
)
time_to_ready = Histogram("kaito_nodeclaim_time_to_ready_seconds", "Claim created → claim Ready", buckets=LATENCY)
failures = Counter("kaito_nodeclaim_failures_total", "Claims that ended without a machine, by reason", ["reason"])
orphan_pools = Gauge("kaito_orphaned_agent_pools", "Pools of ours without a NodeClaim. Alarm := > 0 for 15 minutes")
orphans_deleted = Counter("kaito_orphaned_agent_pools_deleted_total", "Pools deleted because nobody claimed them")
gc_frozen = Gauge("kaito_garbage_collection_frozen", "1 while it is not safe to delete what looks orphaned")


def start() -> None:
    """Create every series whose labels are known."""
    for method in METHODS.values():
        cloud_duration.labels("nodeclaim", method, PROVIDER)
    for reason in ClaimReason:
        if reason.ends:
            failures.labels(reason)
    for disruption, capacity in product(Disruption, (ON_DEMAND, SPOT)):
        claims_disrupted.labels(disruption, NODEPOOL, capacity)
    for code in ("200", "404", "409", "429", "500"):
        evictions.labels(code)
    for counter in (claims_created, claims_terminated, nodes_created, nodes_terminated, nodes_drained):
        counter.labels(NODEPOOL)
    for histogram in (claim_termination, instance_termination):
        histogram.labels(NODEPOOL)


@contextmanager
def cloud_request(verb: str, clock: Clock) -> Iterator[None]:
    began = clock.monotonic()
    try:
        yield
    finally:
        cloud_duration.labels("nodeclaim", METHODS[verb], PROVIDER).observe(clock.monotonic() - began)


def cloud_error(verb: str, reason: str) -> None:
    cloud_errors.labels("nodeclaim", METHODS[verb], PROVIDER, reason).inc()


def since(histogram: Histogram, began: str, clock: Clock) -> None:
    """Observe the time since a timestamp of the API server's, which has whole seconds; skews count as 0."""
    if began:
        histogram.observe(max(0.0, (clock.now() - parse_timestamp(began)).total_seconds()))
