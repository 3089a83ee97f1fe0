"""What the provisioner counts exists before it happens, and what cannot happen is not there."""

from prometheus_client import REGISTRY

from kube.api.reasons import ClaimReason, Disruption
from provisioner import metrics


def test_exactly_what_may_end_a_claim_is_counted_from_the_start() -> None:
    metrics.start()
    counted = {
        sample.labels["reason"]
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "kaito_nodeclaim_failures_total"
    }
    assert counted == {reason for reason in ClaimReason if reason.ends}


def test_what_alarms_and_rates_are_made_of_exists_from_the_start() -> None:
    metrics.start()
    disrupted = "karpenter_nodeclaims_disrupted_total"
    for reason in Disruption:
        labels = {"reason": reason.value, "nodepool": "kaito", "capacity_type": "on-demand"}
        assert REGISTRY.get_sample_value(disrupted, labels) is not None
    for name in ("", "_instance"):
        counts = f"karpenter_nodeclaims{name}_termination_duration_seconds_count"
        assert REGISTRY.get_sample_value(counts, {"nodepool": "kaito"}) is not None
