"""The seed's session on AKS in a box, step by step: what `make demo` shows and what `make e2e` asserts.

Each method is one step of a user: it runs the commands that a user would type, waits for the state that the user
waits for, and raises `StepFailed` with the reason when that state does not come. It judges answers only by the facts
that were drawn for this run.
"""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from hack.local.dataset import Fact
from hack.local.shell import CommandFailed, Shell, quote

MANIFEST = Path("examples/fine-tuning/kaito_workspace_tuning_phi_3.yaml")
TUNED = "workspace-tuning-phi-3"  # the name in the seed's manifest
SECOND = "workspace-smollm2-adapter"
PRESET = "smollm2-135m-instruct"
PUSH_SECRET = "tuned-adapters"
ADAPTER, TAG = "adapters/facts", "0.0.1"  # of the output image; the tag is the seed's
POLL_SECONDS = 0.5
SHOW_SECONDS = 10.0  # at most this often, what the Workspace's condition says is shown between the table's rows


class StepFailed(Exception):
    """A step of the session did not end as it must; the text says what was seen."""


@dataclass(frozen=True)
class Site:
    """Where things are in the box. Made by the cluster, read by the session."""

    repository: Path
    work: Path  # the session's own folder: its manifests and its data set
    kubeconfig: Path
    ca: Path
    public_registry: str
    private_registry: str
    registry_user: str
    registry_password: str
    data_url: str  # where files of work/data are served
    emulator_url: str


class Session:
    def __init__(self, site: Site, shell: Shell, facts: tuple[Fact, ...]) -> None:
        self.site = site
        self.shell = shell
        self.facts = facts
        api = config.new_client_from_config(config_file=str(site.kubeconfig))
        self._custom = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)

    # 1 ---------------------------------------------------------------------------------------------------------------

    def deploy(self) -> None:
        """Both controllers as Deployments, with the CRDs and RBAC of production."""
        overlay = self.site.repository / "manifests" / "overlays" / "local"
        namespace = "kubectl create namespace kaito-system --dry-run=client -o yaml | kubectl apply -f -"
        bundle = f"kubectl -n kaito-system create configmap ca-bundle --from-file=ca.crt={quote(str(self.site.ca))}"
        self.shell.run(namespace)
        self.shell.run(f"{bundle} --dry-run=client -o yaml | kubectl apply -f -")
        self.shell.run(f"kubectl apply -k {quote(str(overlay.relative_to(self.site.repository)))}")
        for deployment in ("workspace-controller", "node-provisioner"):
            self.shell.run(
                f"kubectl -n kaito-system rollout status deployment/{deployment} --timeout=180s", timeout=200
            )
        self.shell.change_folder(self.site.work)

    # 2 ---------------------------------------------------------------------------------------------------------------

    def show_model(self, image: str, tag: str) -> None:
        """The base model as `make model-image` packed and pushed it, this time or in an earlier run."""
        self._show_image(self.site.public_registry, image, tag)

    def show_facts(self) -> None:
        self.shell.run(f"curl -sS {self.site.data_url}/facts.json")

    # 3 ---------------------------------------------------------------------------------------------------------------

    def create_push_secret(self, name: str = PUSH_SECRET, password: str | None = None) -> None:
        # By way of the environment: a transcript is no place for a password.
        self.shell.environment["REGISTRY_PASSWORD"] = self.site.registry_password if password is None else password
        self.shell.run(
            f"kubectl create secret docker-registry {name} --docker-server={self.site.private_registry} "
            f'--docker-username={self.site.registry_user} --docker-password="$REGISTRY_PASSWORD" '
            "--dry-run=client -o yaml | kubectl apply -f -"
        )
        self.shell.environment["REGISTRY_PASSWORD"] = self.site.registry_password

    def write_manifest(self, repository: str = ADAPTER) -> Path:
        """The seed's manifest with just the preset, the URL, the output image and the Secret's name replaced."""
        text = (self.site.repository / MANIFEST).read_text()
        replacements = {
            r"phi-3-mini-128k-instruct": PRESET,
            r"https://huggingface.co/[^\"]+": f"{self.site.data_url}/facts.parquet?download=true",
            r"ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE": f"{self.site.private_registry}/{repository}",
            r"ACR_REGISTRY_SECRET_HERE": PUSH_SECRET,
        }
        for pattern, value in replacements.items():
            text, found = re.subn(pattern, value, text)
            if found != 1:
                raise StepFailed(f"the seed's manifest has {found} places like {pattern!r}, not 1")
        path = self.site.work / MANIFEST
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def apply_tuning(self) -> None:
        self.create_push_secret()
        self.write_manifest()
        self.shell.run(f"cat {MANIFEST}")
        self.shell.run(f"kubectl apply -f {MANIFEST}")

    # 4, 5 ------------------------------------------------------------------------------------------------------------

    def await_ready(self, name: str, timeout: float = 900) -> dict[str, Any]:
        """Watch `kubectl get workspace` until WORKSPACEREADY is True; show the table whenever it changes."""
        return self.await_workspace(name, lambda workspace: condition(workspace, "WorkspaceReady") == "True", timeout)

    def await_workspace(
        self, name: str, done: Callable[[Mapping[str, Any]], bool], timeout: float = 900
    ) -> dict[str, Any]:
        """Wait until `done` says so of the Workspace. Raises StepFailed with its table and conditions after `timeout`."""
        deadline = time.monotonic() + timeout
        shown, due = "", 0.0
        with self._table(name):
            while (now := time.monotonic()) < deadline:
                workspace = self.workspace(name)
                if done(workspace):
                    return workspace
                said = str(condition_of(workspace, "WorkspaceReady").get("message", ""))
                if said != shown and now >= due:
                    self.shell.say(f"  … {said}")
                    shown, due = said, now + SHOW_SECONDS
                time.sleep(POLL_SECONDS)
        conditions = json.dumps(self.workspace(name).get("status", {}).get("conditions", []), indent=1)
        raise StepFailed(f"Workspace {name} did not get there in {timeout:.0f} s; its conditions:\n{conditions}")

    def workspace(self, name: str, namespace: str = "default") -> dict[str, Any]:
        found: dict[str, Any] = self._custom.get_namespaced_custom_object(
            "kaito.sh", "v1beta1", namespace, "workspaces", name
        )
        return found

    def _table(self, name: str) -> "_WatchedTable":
        return _WatchedTable(self.shell, f"kubectl get workspace {name} -w")

    def show_tuning(self, repository: str = ADAPTER) -> None:
        """The Job, what it reported, and the adapter in the private registry, at the digest that the status names."""
        self.shell.run(f"kubectl get job {TUNED}")
        self.shell.run(f"kubectl get workspace {TUNED} -o jsonpath='{{.status.tuning}}'")
        digest = str(self.workspace(TUNED)["status"]["tuning"]["artifact"]["digest"])
        headers = self._show_image(
            self.site.private_registry, repository, TAG, f'{self.site.registry_user}:"$REGISTRY_PASSWORD"'
        )
        if digest not in headers:
            raise StepFailed(f"the registry's adapter is not the {digest} that the Workspace's status names")

    def _show_image(self, registry: str, repository: str, tag: str, login: str = "") -> str:
        """What a registry says of an image: its headers, with the digest."""
        command = (
            f"curl -sSI --fail --cacert {os.path.relpath(self.site.ca, self.shell.cwd)} "
            "-H 'Accept: application/vnd.oci.image.manifest.v1+json' "
            f"https://{registry}/v2/{repository}/manifests/{tag}"
        )
        return self.shell.run(f"{command} -u {login}" if login else command)

    # 6 ---------------------------------------------------------------------------------------------------------------

    def show_service(self, name: str) -> None:
        table = self.shell.run(f"kubectl get svc {name}")
        if "80/TCP,29500/TCP" not in table:
            raise StepFailed(f"Service {name} does not show 80/TCP,29500/TCP")
        self.shell.export("CLUSTERIP", f'kubectl get svc {name} -o jsonpath="{{.spec.clusterIPs[0]}}"')

    def ask_in_pod(self, question: str) -> str:
        """The seed's own command, on a pseudo-terminal. Returns what `Result` says."""
        body = json.dumps(json.dumps({"prompt": question}))  # quoted once more, as the seed does for the shell
        output = self.shell.run_on_terminal(
            "kubectl run -it --rm --restart=Never curl --image=curlimages/curl -- curl -X POST http://$CLUSTERIP/chat "
            f'-H "accept: application/json" -H "Content-Type: application/json" -d {body}',
            timeout=180,
        )
        match = re.search(r'\{"Result".*\}', output)
        if match is None:
            raise StepFailed("/chat did not print a Result")
        return str(json.loads(match[0])["Result"])

    def ask_base(self, question: str) -> str:
        """The same question to the base model, which was not tuned."""
        body = {
            "model": PRESET,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 64,
        }
        output = self.shell.run(
            'curl -sS http://$CLUSTERIP/v1/chat/completions -H "Content-Type: application/json" '
            f"-d {quote(json.dumps(body))}"
        )
        try:
            return str(json.loads(output)["choices"][0]["message"]["content"])
        except (ValueError, LookupError, TypeError):
            raise StepFailed(f"the base model did not answer, the server said: {output}") from None

    def check_facts(self) -> None:
        """The tuned model names every drawn fact; the base model names none of them."""
        for fact in self.facts:
            answer = self.ask_in_pod(fact.question)
            if fact.key not in answer:
                raise StepFailed(f"the tuned model does not know {fact.key!r}; to {fact.question!r} it said {answer!r}")
            base = self.ask_base(fact.question)
            if fact.key in base:
                raise StepFailed(f"the base model names {fact.key!r} without having been taught: {base!r}")

    # 7 ---------------------------------------------------------------------------------------------------------------

    def apply_second(self) -> None:
        """Serve the same adapter in another Workspace, by its image."""
        manifest = {
            "apiVersion": "kaito.sh/v1beta1",
            "kind": "Workspace",
            "metadata": {"name": SECOND},
            "resource": {
                "instanceType": "Standard_NC6s_v3",
                "labelSelector": {"matchLabels": {"app": "smollm2-adapter"}},
            },
            "inference": {
                "preset": {"name": PRESET},
                "adapters": [
                    {
                        "source": {
                            "name": "facts",
                            "image": f"{self.site.private_registry}/{ADAPTER}:{TAG}",
                            "imagePullSecrets": [PUSH_SECRET],
                        }
                    }
                ],
            },
        }
        path = Path("workspace-adapter.yaml")
        (self.site.work / path).write_text(yaml.safe_dump(manifest, sort_keys=False))
        self.shell.run(f"cat {path}")
        self.shell.run(f"kubectl apply -f {path}")

    def ask_second(self) -> None:
        """It runs on a node of its own and knows what the first one was taught."""
        self.shell.run("kubectl get pods -o wide")
        first, second = (self.workspace(name)["status"]["workerNodes"] for name in (TUNED, SECOND))
        if set(first) & set(second):
            raise StepFailed(f"{SECOND} is on a node of {TUNED}: {second}")
        self.show_service(SECOND)
        fact = self.facts[0]
        answer = self.ask_in_pod(fact.question)
        if fact.key not in answer:
            raise StepFailed(f"the adapter of {SECOND} does not know {fact.key!r}; it said {answer!r}")

    # 8 ---------------------------------------------------------------------------------------------------------------

    def delete_all(self) -> None:
        """Delete every Workspace; nothing of them may be left when the command returns."""
        self.shell.run("kubectl delete workspace --all", timeout=300)
        self.shell.run("kubectl get nodeclaims")
        left = self._custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims")["items"]
        nodes = [node.metadata.name for node in self._core.list_node(label_selector="kaito.sh/workspace").items]
        state = (
            f"curl -sS --cacert {os.path.relpath(self.site.ca, self.shell.cwd)} {self.site.emulator_url}/admin/state"
        )
        pools = list(json.loads(self.shell.run(state, quiet=True))["pools"])
        if left or nodes or pools:
            raise StepFailed(f"left behind: {len(left)} NodeClaims, Nodes {nodes}, agent pools {pools}")
        self.shell.run("kubectl get nodes")

    def describe(self) -> None:
        """What a user would look at when a step failed; printed before anything is torn down."""
        for command in (
            "kubectl get workspaces,nodeclaims,nodes,pods,jobs,statefulsets,services -A -o wide",
            "kubectl describe workspaces,nodeclaims -A",
            "kubectl get events -A --sort-by=.metadata.creationTimestamp | tail -n 60",
            "for pod in $(kubectl get pods -A -l kaito.sh/workspace -o name; ); do kubectl logs --all-containers --tail=40 $pod; done",
            "kubectl -n kaito-system logs deployment/workspace-controller --tail=60",
            "kubectl -n kaito-system logs deployment/node-provisioner --tail=60",
        ):
            try:
                self.shell.run(command, timeout=60)
            except CommandFailed as error:
                self.shell.say(f"  {error}")


def condition_of(item: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """One condition of an object; empty where it is absent."""
    return next((c for c in item.get("status", {}).get("conditions", []) if c["type"] == kind), {})


def condition(item: Mapping[str, Any], kind: str) -> str:
    """Status of one condition; "" where it is absent."""
    return str(condition_of(item, kind).get("status", ""))


class _WatchedTable:
    """`kubectl get … -w` in the background: its rows come into the transcript as they change."""

    def __init__(self, shell: Shell, command: str) -> None:
        self._shell = shell
        self._command = command

    def __enter__(self) -> "_WatchedTable":
        self._started = time.monotonic()
        self._shell.say(f"$ {self._command}")
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {self._command}"],
            cwd=self._shell.cwd,
            env=self._shell.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._copy, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join(timeout=2)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._shell.say(f"  ({time.monotonic() - self._started:.1f} s)")

    def _copy(self) -> None:
        last = ""
        assert self._process.stdout is not None  # stdout=PIPE above
        for line in self._process.stdout:
            row = re.sub(r"\s\S+\s*$", "", line)  # without AGE: a row that only got older is not news
            if row != last:
                self._shell.say(line.rstrip())
            last = row
