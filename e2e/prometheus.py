"""A real Prometheus (Debian's package) beside the box, which scrapes the pods that ask for it by their annotations.

Debian builds it without Kubernetes service discovery; so the pods are looked up here and handed over in a file.
"""

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator

import requests
import yaml
from kubernetes import client, config

from hack.local.cluster import Box
from test.expect import wait_until

SCRAPE_SECONDS = 2
START_SECONDS = 30.0
TARGETS = "targets.json"
CONFIGURATION = {
    "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
    "scrape_configs": [{"job_name": "pods", "file_sd_configs": [{"files": [TARGETS]}]}],
}


def targets(core: client.CoreV1Api) -> list[dict[str, object]]:
    """Every pod of the cluster with a prometheus.io/scrape annotation, as file_sd wants it."""
    found: list[dict[str, object]] = []
    for pod in core.list_pod_for_all_namespaces().items:
        asked = pod.metadata.annotations or {}
        if asked.get("prometheus.io/scrape") == "true":
            address = f"{pod.status.pod_ip}:{asked['prometheus.io/port']}"
            found.append({"targets": [address], "labels": {"pod": pod.metadata.name}})
    return found


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    @classmethod
    @contextlib.contextmanager
    def running(cls, box: Box) -> Iterator["Prometheus"]:
        folder = box.folder / "work" / "prometheus"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(CONFIGURATION))
        core = client.CoreV1Api(config.new_client_from_config(config_file=str(box.kubeconfig)))
        (folder / TARGETS).write_text(json.dumps(targets(core)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        with (box.logs / "prometheus.log").open("w") as log:
            process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            prometheus = cls(f"http://{address}")
            prometheus._await_ready(process)
            yield prometheus
        finally:
            process.terminate()
            process.wait()

    def value(self, query: str) -> float:
        """The one number that a query gives; 0 where nothing matches."""
        answer = requests.get(f"{self._url}/api/v1/query", params={"query": query}, timeout=10)
        answer.raise_for_status()
        found = answer.json()["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def _await_ready(self, process: "subprocess.Popen[bytes]") -> None:
        def ready() -> bool:
            assert process.poll() is None, "Prometheus ended; see prometheus.log beside the box's logs"
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(f"{self._url}/-/ready", timeout=2).ok
            return False

        wait_until(ready, START_SECONDS)
