"""The Workspace CRD on a real API server: what is accepted, and that every rule refuses what it is there for."""

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
import yaml
from kubernetes import client as independent
from kubernetes.client.exceptions import ApiException

from hack.generate import crds as generated
from kube.api import labels
from kube.api import workspace_rules as rules
from kube.api.schema import Rule
from kube.api.workspace import Workspace
from test.conftest import ROOT

SEED = """
apiVersion: kaito.sh/v1alpha1
kind: Workspace
metadata:
  name: workspace-tuning-phi-3
resource:
  instanceType: "Standard_NC6s_v3"
  labelSelector:
    matchLabels:
      app: tuning-phi-3
tuning:
  preset:
    name: phi-3-mini-128k-instruct
  method: qlora
  input:
    urls:
      - "https://huggingface.co/datasets/philschmid/dolly-15k-oai-style/resolve/main/data/train-00000-of-00001-54e3756291ca09c6.parquet?download=true"
  output:
    image: "ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE:0.0.1" # Tuning Output ACR Path
    imagePushSecret: ACR_REGISTRY_SECRET_HERE
"""

Document = dict[str, Any]
Change = Mapping[str, Any]

TUNING: Document = yaml.safe_load(SEED) | {"apiVersion": "kaito.sh/v1beta1"}
INFERENCE: Document = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "workspace-phi-4"},
    "resource": {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"apps": "phi-4"}}},
    "inference": {"preset": {"name": "phi-4"}},
}
TEMPLATE: Document = INFERENCE | {"inference": {"template": {"spec": {"containers": [{"name": "own"}]}}}}

ADAPTER = {"source": {"name": "dolly", "image": "registry/dolly:1"}}
UNKNOWN, RETIRED, FORM = generated.preset_name_rules()


def merged(document: Change, change: Change) -> Document:
    """Apply a JSON merge patch (RFC 7386)."""
    result = copy.deepcopy(dict(document))
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = merged(result.get(key, {}), value)
        else:
            result[key] = value
    return result


def adapters(*changes: Change) -> Change:
    return {"inference": {"adapters": [merged(ADAPTER, change) for change in changes]}}


# Each rule with objects that it alone is there to refuse.
ON_CREATE: tuple[tuple[Rule, Document, Change], ...] = (
    (rules.WORKSPACE[0], TUNING, {"tuning": None}),
    (rules.WORKSPACE[1], TUNING, {"inference": {"preset": {"name": "phi-4"}}}),
    (rules.WORKSPACE[4], INFERENCE, {"metadata": {"name": "w" * 53}}),
    (rules.WORKSPACE[5], INFERENCE, {"metadata": {"name": "4-phi"}}),
    (rules.WORKSPACE[5], INFERENCE, {"metadata": {"name": "phi.4"}}),
    (rules.WORKSPACE[6], TUNING, {"resource": {"count": 2}}),
    (rules.WORKSPACE[7], TUNING, {"resource": {"partition": {"mode": "mig", "profile": "1g.10gb"}}}),
    (
        rules.LABEL_SELECTOR[0],
        INFERENCE,
        {"resource": {"labelSelector": {"matchLabels": {"apps": None} | dict.fromkeys(labels.RESERVED, "x")}}},
    ),
    (rules.PARTITION[0], INFERENCE, {"resource": {"partition": {"mode": "mig"}}}),
    (rules.PARTITION[1], INFERENCE, {"resource": {"partition": {"mode": "accelerator"}}}),
    (
        rules.VOLUME_SOURCE[0],
        TUNING,
        {"tuning": {"input": {"urls": None, "volumeSource": {"hostPath": {"path": "/etc"}}}}},
    ),
    (
        rules.VOLUME_SOURCE[0],
        INFERENCE,
        adapters({"source": {"image": None, "volumeSource": {"hostPath": {"path": "/"}}}}),
    ),
    (rules.URL[0], TUNING, {"tuning": {"input": {"urls": ["ftp://host/file"]}}}),
    (rules.URL[0], TUNING, {"tuning": {"input": {"urls": ["data.parquet"]}}}),
    (rules.URL[0], TUNING, {"tuning": {"input": {"urls": ["https:///file"]}}}),
    (rules.STRENGTH[0], INFERENCE, adapters({"strength": "1.5"})),
    (rules.STRENGTH[0], INFERENCE, adapters({"strength": "-0.5"})),
    (rules.STRENGTH[0], INFERENCE, adapters({"strength": "half"})),
    (rules.ADAPTER[0], INFERENCE, adapters({"source": {"name": None}})),
    (rules.ADAPTER[0], INFERENCE, adapters({"source": {"name": "Dolly!"}})),
    (rules.ADAPTER[1], INFERENCE, adapters({"source": {"urls": ["https://host/file"]}})),
    (rules.ADAPTER[2], INFERENCE, adapters({"source": {"image": None}})),
    (rules.ADAPTER[2], INFERENCE, adapters({"source": {"volumeSource": {"emptyDir": {}}}})),
    (rules.ADAPTERS[0], INFERENCE, adapters({}, {})),
    (rules.INFERENCE[0], INFERENCE, {"inference": {"preset": None}}),
    (rules.INFERENCE[1], INFERENCE, {"inference": {"template": {}}}),
    (rules.METHOD[0], TUNING, {"tuning": {"method": "dora"}}),
    (rules.TUNING_INPUT[0], TUNING, {"tuning": {"input": {"urls": None}}}),
    (rules.TUNING_INPUT[0], TUNING, {"tuning": {"input": {"urls": []}}}),
    (rules.TUNING_INPUT[0], TUNING, {"tuning": {"input": {"image": "registry/data:1"}}}),
    (rules.TUNING_OUTPUT[0], TUNING, {"tuning": {"output": {"volumeSource": {"emptyDir": {}}}}}),
    (rules.TUNING_OUTPUT[1], TUNING, {"tuning": {"output": {"imagePushSecret": None}}}),
    (rules.TUNING_OUTPUT[2], TUNING, {"tuning": {"output": {"image": f"registry/result@sha256:{'0' * 64}"}}}),
    (UNKNOWN, INFERENCE, {"inference": {"preset": {"name": "phi-5"}}}),
    (RETIRED, TUNING, {"tuning": {"preset": {"name": "falcon-7b"}}}),
    (FORM, INFERENCE, {"inference": {"preset": {"name": "org/model/file"}}}),
)

ON_UPDATE: tuple[tuple[Rule, Document, Change], ...] = (
    (rules.WORKSPACE[2], TUNING, {"tuning": None, "inference": {"preset": {"name": "phi-4"}}}),
    (rules.WORKSPACE[3], INFERENCE, {"inference": None, "tuning": TUNING["tuning"]}),
    (rules.RESOURCE[0], INFERENCE, {"resource": {"count": 3}}),
    (rules.RESOURCE[1], INFERENCE, {"resource": {"partition": {"mode": "mig", "profile": "1g.10gb"}}}),
    (rules.RESOURCE[2], INFERENCE, {"resource": {"labelSelector": {"matchLabels": {"apps": "other"}}}}),
    (rules.RESOURCE[3], INFERENCE, {"resource": {"instanceType": "Standard_NC48ads_A100_v4"}}),
    (rules.INFERENCE[2], INFERENCE, {"inference": {"preset": None, "template": {}}}),
    (rules.INFERENCE[3], INFERENCE, {"inference": {"preset": {"name": "phi-4-mini-instruct"}}}),
    (rules.TUNING[0], TUNING, {"tuning": {"preset": {"name": "phi-4"}}}),
    (rules.TUNING[1], TUNING, {"tuning": {"method": "lora"}}),
    (rules.TUNING_INPUT[1], TUNING, {"tuning": {"input": {"name": "other"}}}),
)

REFUSED_BY_SCHEMA: tuple[tuple[str, Document, Change], ...] = (
    ("tuning.preset: Required value", TUNING, {"tuning": {"preset": None}}),
    ("tuning.method: Required value", TUNING, {"tuning": {"method": None}}),
    ("tuning.input: Required value", TUNING, {"tuning": {"input": None}}),
    ("tuning.output: Required value", TUNING, {"tuning": {"output": None}}),
    ("resource.labelSelector: Required value", INFERENCE, {"resource": {"labelSelector": None}}),
    ("inference.adapters[0].source: Required value", INFERENCE, {"inference": {"adapters": [{"strength": "1"}]}}),
    ("inference.adapters: Too many: 11", INFERENCE, adapters(*({"source": {"name": f"a{n}"}} for n in range(11)))),
    ("tuning.output.image: Invalid value", TUNING, {"tuning": {"output": {"image": "https://registry/result:1"}}}),
    ('tuning.onSuccess: Unsupported value: "Stop"', TUNING, {"tuning": {"onSuccess": "Stop"}}),
    ('resource.capacityTypes[0]: Unsupported value: "free"', INFERENCE, {"resource": {"capacityTypes": ["free"]}}),
    ("resource.provisioning.timeout: Invalid value", INFERENCE, {"resource": {"provisioning": {"timeout": "soon"}}}),
)

ACCEPTED_ON_UPDATE: tuple[tuple[str, Document, Change], ...] = (
    (
        "a token's Secret is exchanged",
        INFERENCE,
        {"inference": {"preset": {"presetOptions": {"modelAccessSecret": "new"}}}},
    ),
    ("a revision is pinned", INFERENCE, {"inference": {"preset": {"revision": "main"}}}),
    ("an adapter is added", INFERENCE, adapters({})),
    ("a configuration is added", INFERENCE, {"inference": {"config": "options"}}),
    ("a template's image changes", TEMPLATE, {"inference": {"template": {"spec": {"containers": [{"name": "new"}]}}}}),
    ("the instance type is removed, for nodes of one's own", INFERENCE, {"resource": {"instanceType": None}}),
    ("an alternative is added", INFERENCE, {"resource": {"instanceTypes": ["Standard_NC40ads_H100_v5"]}}),
    ("a method is written in capitals", TUNING, {"tuning": {"method": "QLoRA"}}),
    ("other data is given", TUNING, {"tuning": {"input": {"urls": ["https://host/other.parquet"]}}}),
    ("the result goes elsewhere", TUNING, {"tuning": {"output": {"image": "registry/other:2"}}}),
    ("the nodes are to be released", TUNING, {"tuning": {"onSuccess": "Release"}}),
)


class Server:
    """Creates and replaces Workspaces in a namespace, only on trial unless asked otherwise."""

    def __init__(self, api: independent.ApiClient, namespace: str) -> None:
        self._api = independent.CustomObjectsApi(api)
        self._namespace = namespace

    def create(self, document: Document, **options: Any) -> Document:
        version = document["apiVersion"].rpartition("/")[2]
        created: Document = self._api.create_namespaced_custom_object(
            "kaito.sh", version, self._namespace, "workspaces", document, **options
        )
        return created

    def try_update(self, stored: Document, change: Change) -> Document:
        replaced: Document = self._api.replace_namespaced_custom_object(
            "kaito.sh",
            "v1beta1",
            self._namespace,
            "workspaces",
            stored["metadata"]["name"],
            merged(stored, change),
            dry_run="All",
        )
        return replaced

    def read(self, name: str, version: str) -> Document:
        found: Document = self._api.get_namespaced_custom_object(
            "kaito.sh", version, self._namespace, "workspaces", name
        )
        return found


@pytest.fixture
def server(crds: None, api: independent.ApiClient, namespace: str) -> Server:
    return Server(api, namespace)


def message_of(refusal: pytest.ExceptionInfo[ApiException]) -> str:
    assert refusal.value.status == 422, refusal.value.body
    return str(json.loads(refusal.value.body)["message"])


@pytest.mark.parametrize(("rule", "base", "change"), ON_CREATE, ids=[case[0].message[:50] for case in ON_CREATE])
def test_creation_is_refused_with_the_rules_message(server: Server, rule: Rule, base: Document, change: Change) -> None:
    with pytest.raises(ApiException) as refusal:
        server.create(merged(base, change), dry_run="All")

    assert rule.message in message_of(refusal)


@pytest.mark.parametrize(("rule", "base", "change"), ON_UPDATE, ids=[case[0].message[:50] for case in ON_UPDATE])
def test_an_update_is_refused_with_the_rules_message(
    server: Server, rule: Rule, base: Document, change: Change
) -> None:
    stored = server.create(base)

    with pytest.raises(ApiException) as refusal:
        server.try_update(stored, change)

    assert rule.message in message_of(refusal)


@pytest.mark.parametrize(("message", "base", "change"), REFUSED_BY_SCHEMA)
def test_creation_is_refused_by_the_schema(server: Server, message: str, base: Document, change: Change) -> None:
    with pytest.raises(ApiException) as refusal:
        server.create(merged(base, change), dry_run="All")

    assert message in message_of(refusal)


@pytest.mark.parametrize(
    ("base", "change"), [case[1:] for case in ACCEPTED_ON_UPDATE], ids=[case[0] for case in ACCEPTED_ON_UPDATE]
)
def test_an_update_is_accepted_when(server: Server, base: Document, change: Change) -> None:
    stored = server.create(base)

    updated = server.try_update(stored, change)

    assert updated["metadata"]["generation"] == stored["metadata"]["generation"] + 1


def test_every_rule_of_the_crd_has_a_case() -> None:
    schema = generated.workspaces()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    assert set(messages_in(schema)) == {rule.message for rule, _, _ in ON_CREATE + ON_UPDATE}


def test_the_example_is_the_seeds_manifest() -> None:
    example = ROOT / "examples/fine-tuning/kaito_workspace_tuning_phi_3.yaml"

    assert yaml.safe_load(example.read_text()) == yaml.safe_load(SEED)


def test_the_seeds_manifest_is_accepted_to_the_letter(server: Server) -> None:
    created = server.create(yaml.safe_load(SEED), field_validation="Strict", dry_run="All")

    assert created["resource"]["instanceType"] == "Standard_NC6s_v3"


KAITOS_FORMS: tuple[Change, ...] = (
    {
        "inference": {
            "preset": {"accessMode": "private", "presetOptions": {"image": "reg.io/phi-4:1", "imagePullSecrets": ["s"]}}
        }
    },
    {"resource": {"count": 2, "preferredNodes": ["node-1"]}},
    {"resource": {"labelSelector": {"matchExpressions": [{"key": "apps", "operator": "In", "values": ["a"]}]}}},
    {"resource": {"instanceType": ""}},
    {"metadata": {"annotations": {"kaito.sh/enablelb": "True", "kaito.sh/runtime": "transformers"}}},
    {"resource": {"partition": {"mode": "mig", "profile": "1g.10gb"}}},
    {"resource": {"partition": {"mode": "accelerator", "count": 1}}},
    adapters({"source": {"image": "registry.azurecr.io/adapter@sha256:" + "0" * 64}}),
    adapters({"source": {"image": None, "volumeSource": {"persistentVolumeClaim": {"claimName": "adapter"}}}}),
)


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
@pytest.mark.parametrize("change", KAITOS_FORMS)
def test_what_kaitos_examples_use_is_accepted_in_both_versions(server: Server, version: str, change: Change) -> None:
    server.create(
        merged(INFERENCE, change) | {"apiVersion": f"kaito.sh/{version}"}, field_validation="Strict", dry_run="All"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"urls": None, "image": "registry/data:1", "imagePullSecrets": ["secret"]}},
        {"input": {"urls": None, "volumeSource": {"persistentVolumeClaim": {"claimName": "data", "readOnly": True}}}},
        {
            "output": {
                "image": None,
                "imagePushSecret": None,
                "volumeSource": {"persistentVolumeClaim": {"claimName": "x"}},
            }
        },
        {
            "output": {
                "image": None,
                "imagePushSecret": None,
                "volumeSource": {"glusterfs": {"endpoints": "e", "path": "p"}},
            }
        },
        {"config": "params"},
    ],
)
def test_data_and_results_may_be_wherever_kaito_lets_them_be(server: Server, change: Change) -> None:
    created = server.create(merged(TUNING, {"tuning": change}), field_validation="Strict", dry_run="All")

    assert created["tuning"] | {"preset": None} == merged(TUNING, {"tuning": change})["tuning"] | {"preset": None}


@pytest.mark.parametrize("method", ["lora", "QLoRA", "LoRA"])
def test_a_method_is_accepted_in_any_case(server: Server, method: str) -> None:
    server.create(merged(TUNING, {"tuning": {"method": method}}), dry_run="All")


@pytest.mark.parametrize("strength", ["0", "1", "0.5", ".5", "1.0", "0.0"])
def test_a_strength_from_0_to_1_is_accepted(server: Server, strength: str) -> None:
    server.create(merged(INFERENCE, adapters({"strength": strength})), dry_run="All")


@pytest.mark.parametrize("name", ["phi-4", "Phi-4", "org/Some.Model-v2", "smollm2-135m-instruct"])
def test_presets_and_hub_ids_are_accepted(server: Server, name: str) -> None:
    server.create(merged(INFERENCE, {"inference": {"preset": {"name": name}}}), dry_run="All")


def test_a_workspace_without_instance_type_gets_kaitos_default_in_v1alpha1_alone(server: Server) -> None:
    without = merged(INFERENCE, {"resource": {"instanceType": None}})

    old = server.create(without | {"apiVersion": "kaito.sh/v1alpha1"}, dry_run="All")
    new = server.create(without, dry_run="All")

    assert old["resource"]["instanceType"] == "Standard_NC24ads_A100_v4"
    assert "instanceType" not in new["resource"]


def test_what_was_written_as_v1alpha1_is_read_as_v1beta1_with_all_its_fields(server: Server) -> None:
    server.create(yaml.safe_load(SEED))

    read = server.read("workspace-tuning-phi-3", "v1beta1")

    workspace = msgspec.convert(read, Workspace)
    assert workspace.tuning is not None
    assert workspace.tuning.output is not None
    assert workspace.tuning.output.image_push_secret == "ACR_REGISTRY_SECRET_HERE"
    assert workspace.resource.label_selector is not None
    assert workspace.resource.label_selector.match_labels == {"app": "tuning-phi-3"}


def test_a_pod_template_is_kept_as_it_was_written(server: Server) -> None:
    created = server.create(TEMPLATE, dry_run="All")

    assert created["inference"]["template"] == TEMPLATE["inference"]["template"]


@pytest.mark.parametrize("path", sorted((ROOT / "manifests/samples").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_sample_is_accepted(server: Server, path: Any) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] == "Workspace":
            server.create(document, field_validation="Strict", dry_run="All")


def messages_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        yield from (rule["message"] for rule in schema.get("x-kubernetes-validations", ()))
        for value in schema.values():
            yield from messages_in(value)
