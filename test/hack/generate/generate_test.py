"""The generators: what is committed is what the code says, a difference is found, and the pages name every reason."""

import pathlib

import msgspec.inspect
import pytest

from hack.generate import __main__ as generate
from hack.generate import crds, docs
from hack.generate.openapi import Generator
from kube.api.rbac import PolicyRule
from kube.api.reasons import Reason
from kube.meta import Wire
from runtime.contract import Reason as RuntimeReason
from test.conftest import ROOT


def test_what_is_committed_is_what_the_code_says() -> None:
    assert generate.main(["--check", "--root", str(ROOT)]) == 0


def test_a_difference_is_named_and_fails_and_is_mended(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate.main(["--root", str(tmp_path)])
    crd = tmp_path / "manifests/crd/kaito.sh_workspaces.yaml"
    crd.write_text(crd.read_text().replace("maxItems: 10", "maxItems: 11"))

    assert generate.main(["--check", "--root", str(tmp_path)]) == 1
    assert "manifests/crd/kaito.sh_workspaces.yaml differs" in capsys.readouterr().err
    assert generate.main(["--root", str(tmp_path)]) == 0
    assert generate.main(["--check", "--root", str(tmp_path)]) == 0


def test_columns_are_the_designs_in_its_order() -> None:
    for version in crds.workspaces()["spec"]["versions"]:
        columns = version["additionalPrinterColumns"]
        always = [column["name"].upper() for column in columns if not column.get("priority")]
        wide = [column["name"].upper() for column in columns if column.get("priority")]

        assert always == ["INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "REASON", "AGE"]
        assert wide == ["JOBSTARTED", "STATE", "NODES", "MODEL", "URL"]


def test_a_node_class_shows_no_status_that_nobody_writes() -> None:
    (version,) = crds.node_classes()["spec"]["versions"]
    assert "status" not in version["schema"]["openAPIV3Schema"]["properties"]
    assert "subresources" not in version
    assert [column["name"] for column in version["additionalPrinterColumns"]] == ["Age"]


def test_v1beta1_is_stored_and_v1alpha1_served_without_conversion() -> None:
    spec = crds.workspaces()["spec"]

    assert {version["name"]: version["storage"] for version in spec["versions"]} == {"v1beta1": True, "v1alpha1": False}
    assert all(version["served"] for version in spec["versions"])
    assert spec["conversion"] == {"strategy": "None"}


def test_the_page_of_reasons_has_a_next_step_for_each() -> None:
    page = docs.reasons_page()

    assert all(f"| `{reason}` | {reason.next_step} |" in page for reason in Reason)
    assert all(reason.next_step.endswith(".") for reason in Reason)


def test_every_reason_of_the_runtime_is_in_the_list() -> None:
    assert {reason.value for reason in RuntimeReason} <= {reason.value for reason in Reason}


def test_a_type_without_counterpart_is_an_error() -> None:
    class Odd(Wire, frozen=True, kw_only=True):
        moment: complex | None = None

    with pytest.raises(TypeError, match="no structural schema"):
        Generator({}).schema(msgspec.inspect.type_info(Odd))


def test_a_rule_with_a_wildcard_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="wildcards are refused"):
        PolicyRule("", ("*",), ("get",))
