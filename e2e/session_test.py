"""The session of the seed, from `kubectl apply` to `kubectl delete`, as one user lives through it.

The stories of this module share one session and stand in its order. What goes wrong on the way is in failures_test.py,
what survives kill -9 in kill_test.py.
"""

from collections.abc import Callable, Iterator

import pytest
import requests
from kubernetes import client

from e2e.arm import Arm
from e2e.prometheus import Prometheus
from hack.local import figures
from hack.local.cluster import Box
from hack.local.meter import Meter
from hack.local.recorder import Recorder
from hack.local.session import SECOND, TUNED, Session, condition
from test.expect import wait_until


@pytest.fixture(scope="module")
def prometheus(box: Box, session: Session) -> Iterator[Prometheus]:
    """Scrapes both controllers from here on, found by their pods' annotations as in production."""
    with Prometheus.running(box) as prometheus:
        yield prometheus


def test_the_seeds_workspace_is_tuned_and_then_served(
    session: Session, recorder: Recorder, prometheus: Prometheus
) -> None:
    session.apply_tuning()
    workspace = session.await_ready(TUNED)
    assert [condition(workspace, kind) for kind in ("ResourceReady", "InferenceReady", "WorkspaceReady")] == [
        "True"
    ] * 3
    tuning = workspace["status"]["tuning"]
    assert 0 < tuning["step"] <= tuning["totalSteps"]  # it may stop early
    live, tuned = (recorder.when("Workspace", TUNED, what) or 0.0 for what in ("Step", "Tuned"))
    assert 0.0 < live < tuned  # not only the final report
    session.show_tuning()


def test_only_the_adapter_is_left_in_the_registry_and_no_checkpoint(session: Session) -> None:
    site = session.site
    url = f"https://{site.private_registry}/v2/adapters/facts/tags/list"
    answer = requests.get(url, auth=(site.registry_user, site.registry_password), verify=str(site.ca), timeout=10)
    assert answer.json()["tags"] == ["0.0.1"]


def test_the_service_answers_the_drawn_facts_and_the_base_model_does_not(session: Session) -> None:
    session.show_service(TUNED)
    session.check_facts()


def test_the_adapter_is_served_by_a_second_workspace_on_its_own_node(session: Session, core: client.CoreV1Api) -> None:
    session.apply_second()
    session.await_ready(SECOND)
    session.ask_second()
    pods = core.list_namespaced_pod("default", label_selector="kaito.sh/workspace").items
    assert len({pod.spec.node_name for pod in pods}) == 2


def test_each_workspace_took_exactly_one_put_to_one_agent_pool(arm: Arm, custom: client.CustomObjectsApi) -> None:
    claims = custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims")["items"]
    assert arm.puts() == {claim["metadata"]["name"]: 1 for claim in claims}
    assert len(claims) == 2


def test_the_controllers_answer_in_time_and_all_stays_small(
    box: Box, recorder: Recorder, meter: Meter, record_property: Callable[[str, object], None]
) -> None:
    memory = list(figures.controllers(box.kubeconfig))
    assert len(memory) == 2
    latencies = figures.latencies(recorder, figures.claims(box.kubeconfig))
    measured = [*latencies, *memory, figures.memory(meter.memory)]
    for figure in measured:
        record_property("figure", figure)
    assert [str(figure) for figure in measured if not figure.ok] == []


def test_prometheus_sees_reconciles_queues_and_the_time_to_ready(prometheus: Prometheus) -> None:
    def seen() -> bool:  # a scrape that took too long leaves a gap until the next
        for controller in ("workspace", "nodeclaim"):
            assert prometheus.value(f'sum(controller_runtime_reconcile_total{{controller=~".*{controller}.*"}})') > 0
            assert prometheus.value(f'sum(workqueue_adds_total{{name=~".*{controller}.*"}})') > 0
        return prometheus.value("sum(kaito_workspace_time_to_ready_seconds_count)") == 2

    wait_until(seen)


def test_deleting_every_workspace_leaves_no_claim_no_pool_and_no_node(session: Session, arm: Arm) -> None:
    session.delete_all()
    assert arm.pools() == []
