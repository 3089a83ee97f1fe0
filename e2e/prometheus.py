"""A real Prometheus (Debian's package) beside the box, which finds the controllers by their pods' annotations."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import requests
import yaml

from hack.local.cluster import Box

SCRAPE_SECONDS = 2
START_SECONDS = 30.0
# What a cluster's own Prometheus does with prometheus.io/* annotations.
ANNOTATION = "__meta_kubernetes_pod_annotation_prometheus_io_"


def configuration(kubeconfig: Path) -> dict[str, object]:
    return {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
        "scrape_configs": [
            {
                "job_name": "pods",
                "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(kubeconfig)}],
                "relabel_configs": [
                    {"source_labels": [f"{ANNOTATION}scrape"], "action": "keep", "regex": "true"},
                    {
                        "source_labels": ["__meta_kubernetes_pod_ip", f"{ANNOTATION}port"],
                        "separator": ":",
                        "target_label": "__address__",
                    },
                    {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
                ],
            }
        ],
    }


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    @classmethod
    @contextlib.contextmanager
    def running(cls, box: Box) -> Iterator["Prometheus"]:
        folder = box.folder / "work" / "prometheus"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration(box.kubeconfig)))
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
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{self._url}/-/ready", timeout=2).ok:
                    return
            time.sleep(0.2)  # the deadline bounds this wait for another program's start
        raise AssertionError("Prometheus did not start; see prometheus.log beside the box's logs")
