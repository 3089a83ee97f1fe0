"""One box for all stories of a run. Stories that need another cluster, or none, say so in their module."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from e2e.arm import Arm
from hack.local import cluster, demo, snapshot
from hack.local.meter import Meter
from hack.local.recorder import Recorder
from hack.local.session import Session

TRANSCRIPT = "e2e-transcript.log"


@pytest.fixture(scope="session")
def machine_before() -> snapshot.Snapshot:
    """This machine without a box: what every `down` must come back to."""
    cluster.down()  # of an earlier run that was killed
    return snapshot.take(cluster.run_folder())


@pytest.fixture(scope="session")
def meter(machine_before: snapshot.Snapshot) -> Iterator[Meter]:
    """How much of the machine is used beyond what was before the box."""
    meter = Meter(cluster.REPOSITORY, "the box").start()
    yield meter
    meter.stop()


@pytest.fixture(autouse=True)
def story(request: pytest.FixtureRequest, meter: Meter) -> None:
    """Lets the meter know in which story a peak was reached."""
    meter.step = request.node.name


@pytest.fixture(scope="session")
def box(machine_before: snapshot.Snapshot, meter: Meter) -> Iterator[cluster.Box]:
    with cluster.running() as running:
        yield running


@pytest.fixture(scope="session")
def session(box: cluster.Box) -> Iterator[Session]:
    """The session with both controllers deployed. What it prints goes to build/local/logs/e2e-transcript.log."""
    with (box.logs / TRANSCRIPT).open("w") as transcript:

        def out(text: str) -> None:
            transcript.write(text)
            transcript.flush()

        with demo.prepared(box, out) as prepared:
            prepared.deploy()
            prepared.create_push_secret()
            yield prepared


@pytest.fixture(scope="module")
def recorder(box: cluster.Box) -> Iterator[Recorder]:
    """What was ever true in the cluster, from a module's first story on that asks."""
    with demo.recording(box) as recorder:
        yield recorder


@pytest.fixture(scope="session")
def arm(box: cluster.Box) -> Arm:
    """What Azure saw, and how to make it fail: the emulator's admin endpoint."""
    return Arm(box.emulator_url, box.authority)


@pytest.fixture(scope="session")
def core(box: cluster.Box) -> client.CoreV1Api:
    return client.CoreV1Api(config.new_client_from_config(config_file=str(box.kubeconfig)))


@pytest.fixture(scope="session")
def custom(box: cluster.Box) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(config.new_client_from_config(config_file=str(box.kubeconfig)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The session first, what it survives next, and last what ends the box."""
    order = ("session_test", "failures_test", "kill_test", "teardown_test")
    items.sort(key=lambda item: order.index(item.path.stem))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the transcript with a story that failed."""
    report = yield
    transcript = Path(cluster.logs_folder()) / TRANSCRIPT
    if report.failed and transcript.exists():
        report.sections.append(("transcript", "\n".join(transcript.read_text().splitlines()[-150:])))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Figures are shown whether or not they meet their targets; a story hands them over with `record_property`."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    found = [str(value) for report in reports for name, value in report.user_properties if name == "figure"]
    if found:
        terminalreporter.section("figures")
        terminalreporter.write("\n".join([*found, ""]))
