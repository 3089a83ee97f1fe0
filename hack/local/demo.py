"""`make demo`: the seed's session on AKS in a box, from nothing to nothing.

Straight down: start the box, run the session's steps, print the figures, end the box. A step that fails, and Ctrl-C,
end the box too, after showing the reason, what a user would have looked at, and where the logs are.
"""

import argparse
import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator

from hack.local import assets, cluster, dataset, figures, images, model
from hack.local.controlplane import ADDRESS
from hack.local.meter import Meter, folder_mib
from hack.local.recorder import Recorder
from hack.local.session import SECOND, TUNED, Session, StepFailed
from hack.local.shell import CommandFailed, Shell


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 when every step ended as it must, 1 with the reason, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m hack.local demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster up at the end (then: make down)")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        cached = cached_mib()
        meter = Meter(cluster.REPOSITORY, "0. The box and its images").start()
        with cluster.running(keep=options.keep) as box:
            run(box, started, meter)
        meter.stop()
        print(figures.memory(meter.memory), figures.disk(meter.disk, cached), sep="\n")
    except (StepFailed, CommandFailed, cluster.BoxError) as error:
        print(f"\nThe demo failed: {error}\nLogs: {cluster.logs_folder()}", file=sys.stderr)
        return 1
    except Exception:  # noqa: BLE001 (nobody has words for it: where it came from is the reason)
        traceback.print_exc()
        print(f"\nThe demo failed; the reason stands above.\nLogs: {cluster.logs_folder()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted; everything is ended. Logs: {cluster.logs_folder()}", file=sys.stderr)
        return 130
    print(f"\nDone in {(time.monotonic() - started) / 60:.1f} min.")
    return 0


def run(box: cluster.Box, started: float, meter: Meter) -> None:
    """The session's steps in the order of the seed, then its figures."""
    with prepared(box) as session, recording(box) as recorder:
        try:
            for title, step in steps(session):
                meter.step = title
                session.shell.say(f"\n=== {title}  [{time.monotonic() - started:.0f} s]")
                step()
                if step == session.ask_second:  # the figures need the objects that the next step deletes
                    show_figures(session.shell, recorder, box)
        except Exception:
            session.describe()
            raise


@contextlib.contextmanager
def prepared(box: cluster.Box, out: Callable[[str], None] | None = None) -> Iterator[Session]:
    """A session in a box whose registry holds the images and the base model, and whose data set teaches new facts."""
    shell = Shell(box.repository, {"KUBECONFIG": str(box.kubeconfig)}, out)
    images.ensure(box.folder, images.product_images())
    model.ensure(box.folder)
    folder = box.site("").work / "data"
    facts = dataset.make(folder)
    with dataset.serving(folder, ADDRESS) as url:
        yield Session(box.site(url), shell, facts)


@contextlib.contextmanager
def recording(box: cluster.Box) -> Iterator[Recorder]:
    recorder = Recorder(box.kubeconfig).start()
    try:
        yield recorder
    finally:
        recorder.stop()


def steps(session: Session) -> list[tuple[str, Callable[[], object]]]:
    """Titles and actions, in the order of the session in README.md."""
    return [
        ("1. Both controllers, as Deployments", session.deploy),
        ("2. The base model, packed by `make model-image`", lambda: session.show_model(model.IMAGE, model.VERSION)),
        ("2. Facts that no model can know, drawn for this run", session.show_facts),
        ("3. The Secret for the tuned adapter, and the seed's manifest", session.apply_tuning),
        ("4. From one Workspace to a node, a tuning and a served model", lambda: session.await_ready(TUNED)),
        ("5. What the tuning left", session.show_tuning),
        ("6. The Service", lambda: session.show_service(TUNED)),
        ("6. Does it know what it was taught, and the base model not?", session.check_facts),
        ("7. The same adapter, by its image, in a second Workspace", session.apply_second),
        ("7. Its own node", lambda: session.await_ready(SECOND)),
        ("7. Does it answer?", session.ask_second),
        ("8. Delete all", session.delete_all),
    ]


def show_figures(shell: Shell, recorder: Recorder, box: cluster.Box) -> None:
    shell.say("\n=== Figures")
    for figure in (*figures.latencies(recorder, figures.claims(box.kubeconfig)), *figures.controllers(box.kubeconfig)):
        shell.say(str(figure))


def cached_mib() -> float:
    """What earlier runs left on the disk for the next: caches, environments, the registries' storage."""
    folders = [assets.cache(), cluster.REPOSITORY / "build", *cluster.REPOSITORY.glob(".venv*")]
    return sum(folder_mib(folder) for folder in folders)
