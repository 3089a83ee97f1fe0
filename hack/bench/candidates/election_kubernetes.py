"""`kubernetes`' leader election when the API server hangs, with the same durations."""

import logging
import threading
import time

from kubernetes import client
from kubernetes.leaderelection.electionconfig import Config
from kubernetes.leaderelection.leaderelection import LeaderElection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from hack.bench.control import ask
from hack.bench.task import Task, answer


def measure(task: Task) -> dict[str, float | None]:
    hung = threading.Event()
    stopped = threading.Event()

    def lead() -> None:
        ask(task.control, "fail", port=task.port, mode="hang")
        hung.set()
        stopped.wait()

    client.Configuration.set_default(client.Configuration(host=task.url))
    lock = LeaseLock("bench", "kube-system", "peer")
    config = Config(lock, 15, 10, 2, onstarted_leading=lead, onstopped_leading=stopped.set)
    threading.Thread(target=LeaderElection(config).run, daemon=True).start()
    hung.wait()
    began = time.monotonic()
    in_time = stopped.wait(task.seconds)
    return {"writes_s": time.monotonic() - began if in_time else None}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    answer(measure(Task.given()))
