"""Fetching from a real registry and a real HTTP server on loopback. The hub's client is covered against a small hub double."""

import contextlib
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import address, contract, fetch, push
from runtime.contract import ExitCode, Phase, Reason, Status
from runtime.fault import Fault
from runtime.oci.reference import Reference
from runtime.retry import Schedule
from runtime.status import Reporter
from runtime.target import Target
from test.runtime.registry import Registry, write_secret

BODY = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(100_000))  # 3.2 MB
LOOPBACK = "127.0.0.0/8"


@dataclass
class Site:
    """What the HTTP server does: bodies by path, how many bytes to send before the line breaks, where to redirect."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    etag: str = '"one"'
    heeds_if_range: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        site.requests.append((path, self.headers.get("Range")))
        if path in site.redirects:
            self.send_response(302)
            self.send_header("Location", site.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path not in site.bodies:
            self.send_error(404)
        else:
            self._send(site, site.bodies[path])

    def _send(self, site: Site, body: bytes) -> None:
        wanted, start = self.headers.get("Range"), 0
        if wanted and (self.headers.get("If-Range") == site.etag or not site.heeds_if_range):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", site.etag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = site.breaks.pop(0) if site.breaks else len(body)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body[start : max(start, end)])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": made}))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Status]]:
    """Run the program in this process with quick retries. Returns its exit code and report."""
    monkeypatch.setattr(fetch, "Schedule", lambda deadline: Schedule(deadline, first=0.02, longest=0.05))
    report = tmp_path / "termination-log"

    def call(*arguments: object, deadline: float = 0.0) -> tuple[int, Status]:
        report.write_text("")
        common = ["--deadline", deadline, "--port", 0, "--termination-log", report]
        code = fetch.main([str(part) for part in (*arguments, *common)])
        return code, contract.decode(Status, report.read_text())

    return call


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(contract.ALLOWED_RANGES_ENV, LOOPBACK)


Run = Callable[..., tuple[int, Status]]


@pytest.mark.usefixtures("allowed")
class TestUrls:
    def test_a_file_arrives_under_its_name_and_readable_for_the_group(
        self, run: Run, site: Site, tmp_path: Path
    ) -> None:
        site.bodies["/data/train-0.parquet"] = BODY
        assert run("data", "--url", site.url + "/data/train-0.parquet?download=true", "--to", tmp_path / "data")[0] == 0
        file = tmp_path / "data" / "train-0.parquet"
        assert file.read_bytes() == BODY
        assert file.stat().st_mode & 0o040
        assert not (tmp_path / "data" / ".partial").exists()

    def test_a_second_run_asks_nobody(self, run: Run, site: Site, tmp_path: Path) -> None:
        site.bodies["/a.json"] = b"[]"
        arguments = ("data", "--url", site.url + "/a.json", "--to", tmp_path / "data")
        run(*arguments)
        asked = len(site.requests)
        assert run(*arguments)[0] == 0
        assert len(site.requests) == asked

    def test_another_source_replaces_what_was_there(self, run: Run, site: Site, tmp_path: Path) -> None:
        site.bodies |= {"/a.json": b"[1]", "/b.json": b"[2]"}
        run("data", "--url", site.url + "/a.json", "--to", tmp_path / "data")
        run("data", "--url", site.url + "/b.json", "--to", tmp_path / "data")
        assert [path.name for path in (tmp_path / "data").glob("*.json") if path.name[0] != "."] == ["b.json"]

    def test_a_broken_download_goes_on_where_it_was(self, run: Run, site: Site, tmp_path: Path) -> None:
        site.bodies["/a.bin"] = BODY
        site.breaks = [1_000_000, 2_500_000]
        assert run("data", "--url", site.url + "/a.bin", "--to", tmp_path / "data", deadline=60)[0] == 0
        assert (tmp_path / "data" / "a.bin").read_bytes() == BODY
        starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for _, wanted in site.requests if wanted]
        assert starts == [1_000_000, 2_500_000]

    def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(
        self, run: Run, site: Site, tmp_path: Path
    ) -> None:
        site.bodies["/a.bin"] = b"x" * 1000
        site.breaks = [500]
        assert run("data", "--url", site.url + "/a.bin", "--to", tmp_path / "data")[0] == ExitCode.INPUT_MISSING
        site.bodies["/a.bin"], site.etag = b"y" * 2000, '"two"'
        assert run("data", "--url", site.url + "/a.bin", "--to", tmp_path / "data")[0] == 0
        assert (tmp_path / "data" / "a.bin").read_bytes() == b"y" * 2000

    def test_a_server_that_ignores_if_range_does_not_mix_two_files(self, run: Run, site: Site, tmp_path: Path) -> None:
        site.bodies["/a.bin"] = b"x" * 1000
        site.breaks = [500]
        site.heeds_if_range = False
        arguments = ("data", "--url", site.url + "/a.bin", "--to", tmp_path / "data")
        assert run(*arguments)[0] == ExitCode.INPUT_MISSING
        site.bodies["/a.bin"], site.etag = b"y" * 1000, '"two"'
        assert run(*arguments, deadline=60)[0] == 0
        assert (tmp_path / "data" / "a.bin").read_bytes() == b"y" * 1000

    def test_several_urls_of_one_name_do_not_hide_each_other(self, run: Run, site: Site, tmp_path: Path) -> None:
        site.bodies |= {"/a/train.json": b"[1]", "/b/train.json": b"[2]"}
        urls = (site.url + "/a/train.json", site.url + "/b/train.json")
        assert run("data", "--url", *urls, "--to", tmp_path / "data")[0] == 0
        assert (tmp_path / "data" / "train.json").read_bytes() == b"[1]"
        assert (tmp_path / "data" / "1-train.json").read_bytes() == b"[2]"

    def test_the_size_limit_ends_it_at_once(self, run: Run, site: Site, tmp_path: Path) -> None:
        site.bodies["/a.bin"] = BODY
        url = site.url + "/a.bin"
        code, status = run("data", "--url", url, "--to", tmp_path / "data", "--size-limit", 1000, deadline=60)
        assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.DATA_UNREACHABLE)
        assert "limit of 1000 bytes" in status.message

    def test_a_checksum_in_the_fragment_is_held(self, run: Run, site: Site, tmp_path: Path) -> None:
        site.bodies["/a.bin"] = BODY
        good = hashlib.sha256(BODY).hexdigest()
        assert run("data", "--url", f"{site.url}/a.bin#sha256={good}", "--to", tmp_path / "good")[0] == 0
        code, status = run("data", "--url", f"{site.url}/a.bin#sha256={'0' * 64}", "--to", tmp_path / "bad")
        assert code == ExitCode.INPUT_MISSING
        assert "sha256" in status.message
        assert not (tmp_path / "bad" / "a.bin").exists()

    def test_a_missing_file_says_so_with_its_code(self, run: Run, site: Site, tmp_path: Path) -> None:
        code, status = run("data", "--url", site.url + "/none.json", "--to", tmp_path / "data")
        assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.DATA_UNREACHABLE)
        assert "answered 404" in status.message

    def test_no_server_at_all_is_unreachable(self, run: Run, nowhere: str, tmp_path: Path) -> None:
        code, status = run("data", "--url", f"http://{nowhere}/a.json", "--to", tmp_path / "data")
        assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.DATA_UNREACHABLE)

    def test_a_redirect_to_a_permitted_address_is_followed(self, run: Run, site: Site, tmp_path: Path) -> None:
        site.bodies["/real.json"] = b"[1]"
        site.redirects["/a.json"] = "/real.json"
        assert run("data", "--url", site.url + "/a.json", "--to", tmp_path / "data")[0] == 0
        assert (tmp_path / "data" / "a.json").read_bytes() == b"[1]"

    def test_a_redirect_to_a_private_address_is_refused_at_once(self, run: Run, site: Site, tmp_path: Path) -> None:
        site.redirects["/a.json"] = "http://169.254.169.254/metadata/identity"
        code, status = run("data", "--url", site.url + "/a.json", "--to", tmp_path / "data", deadline=60)
        assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.DATA_FORBIDDEN)


def test_a_name_that_resolves_to_loopback_is_refused(run: Run, site: Site, tmp_path: Path) -> None:
    site.bodies["/a.json"] = b"[]"
    url = site.url.replace("127.0.0.1", "localhost") + "/a.json"
    code, status = run("data", "--url", url, "--to", tmp_path / "data", deadline=60)
    assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.DATA_FORBIDDEN)
    assert site.requests == []


@pytest.mark.parametrize(
    "text",
    [
        "10.1.2.3",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "198.18.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    ],
)
def test_private_and_special_addresses_are_refused(text: str) -> None:
    assert not address.permitted(ip_address(text), ())


def test_public_addresses_and_allowed_ranges_are_permitted() -> None:
    assert address.permitted(ip_address("20.50.1.1"), ())
    assert address.permitted(ip_address("198.18.0.7"), address.allowed_ranges("198.18.0.0/15, fd00::/8"))
    assert address.permitted(ip_address("::ffff:198.18.0.7"), address.allowed_ranges("198.18.0.0/15"))


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_the_same_inside_ipv6(plain: object) -> None:
    v4 = ip_address(str(plain))
    assert address.permitted(ip_address(f"::ffff:{v4}"), ()) == address.permitted(v4, ())


def test_a_mistyped_range_is_a_configuration_error() -> None:
    with pytest.raises(Fault, match="ALLOWED_ADDRESS_RANGES"):
        address.allowed_ranges("198.18.0.0/99")


class TestImages:
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(BODY)
        (folder / "adapter_model.safetensors").chmod(0o600)
        return folder

    @staticmethod
    def send(folder: Path, image: str, *secrets: Path) -> str:
        reporter = Reporter(Phase.PUSHING)
        given_to = {"secrets": secrets, "annotations": {}, "schedule": Schedule(10), "reporter": reporter}
        return push.push(folder, Reference.parse(image), **given_to).digest  # type: ignore[arg-type]  # a plain bundle

    def test_what_was_pushed_comes_back_by_tag_and_by_digest(
        self, run: Run, registry: Registry, adapter: Path, tmp_path: Path
    ) -> None:
        image = f"{registry.host}/team/adapter:1"
        digest = self.send(adapter, image)
        for name, reference in (("tag", image), ("digest", f"{image}@{digest}")):
            assert run("adapter", "--image", reference, "--to", tmp_path / name)[0] == 0
            assert (tmp_path / name / "adapter_model.safetensors").read_bytes() == BODY
            assert (tmp_path / name / "adapter_config.json").stat().st_mode & 0o040

    def test_a_missing_image_is_unreachable_and_named(self, run: Run, registry: Registry, tmp_path: Path) -> None:
        code, status = run("adapter", "--image", f"{registry.host}/team/none:1", "--to", tmp_path / "x")
        assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.ADAPTER_UNREACHABLE)
        assert "404" in status.message

    def test_weights_are_looked_for_where_weights_images_have_them(
        self, run: Run, registry: Registry, adapter: Path, tmp_path: Path
    ) -> None:
        image = f"{registry.host}/team/adapter:1"
        self.send(adapter, image)
        code, status = run("model", "--image", image, "--to", tmp_path / "x")
        assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.WEIGHTS_UNREACHABLE)
        assert "no files in /workspace/weights" in status.message

    def test_a_data_image_without_data_ends_it_and_says_where_files_are_expected(
        self, run: Run, registry: Registry, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(contract, "IMAGE_DATA_DIR", "elsewhere")
        image = f"{registry.host}/team/rows:1"
        self.send(adapter, image)
        code, status = run("data", "--image", image, "--to", tmp_path / "x", deadline=60)
        assert (code, status.reason) == (ExitCode.DATA_INVALID, Reason.DATASET_INVALID)
        assert "has no files in /data, where they are expected" in status.message

    def test_logins_are_merged_and_the_right_one_is_used(
        self, run: Run, private_registry: Registry, adapter: Path, tmp_path: Path
    ) -> None:
        image = f"{private_registry.host}/team/adapter:1"
        right = write_secret(tmp_path / "right", private_registry.host)
        self.send(adapter, image, right)
        other = write_secret(tmp_path / "other", "registry.example")
        auth = ("--auth", tmp_path / "absent", "--auth", other, "--auth", right)
        assert run("adapter", "--image", image, "--to", tmp_path / "x", *auth)[0] == 0

    def test_no_secret_a_missing_one_and_a_wrong_one_are_told_apart(
        self, run: Run, private_registry: Registry, tmp_path: Path
    ) -> None:
        image = ("adapter", "--image", f"{private_registry.host}/team/adapter:1", "--to", tmp_path / "x")
        wrong = write_secret(tmp_path / "wrong", private_registry.host, "wrong-password")
        assert run(*image)[1].reason == Reason.PULL_UNAUTHORIZED
        assert run(*image, "--auth", tmp_path / "absent")[1].reason == Reason.SECRET_MISSING
        status = run(*image, "--auth", tmp_path / "absent", "--auth", wrong)[1]
        assert status.reason == Reason.PULL_UNAUTHORIZED
        assert "with the credentials from Secret `wrong`: correct them, the Secret is read again" in status.message

    def test_a_secret_that_appears_heals_a_pull(
        self, run: Run, private_registry: Registry, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = f"{private_registry.host}/team/adapter:1"
        self.send(adapter, image, write_secret(tmp_path / "own", private_registry.host))
        seen: list[str] = []

        def trouble(reporter: Reporter, fault: Fault) -> None:
            seen.append(fault.reason)
            write_secret(tmp_path / "late", private_registry.host)
            reporter.update(reason=fault.reason)

        monkeypatch.setattr(Reporter, "trouble", trouble)
        late = ("--auth", tmp_path / "late")
        code, status = run("adapter", "--image", image, "--to", tmp_path / "x", *late, deadline=60)
        assert (code, status.reason) == (0, "")
        assert seen == ["SecretMissing"]

    def test_a_name_that_is_no_image_is_a_configuration_error(self, run: Run, tmp_path: Path) -> None:
        code, status = run("adapter", "--image", "Not An Image", "--to", tmp_path / "x")
        assert (code, status.reason) == (ExitCode.CONFIG_INVALID, Reason.CONFIG_INVALID)


class Killed(BaseException):
    """SIGKILL, as far as a test in one process has it: nothing is tidied up but by the next run."""


class TestTarget:
    @pytest.mark.usefixtures("allowed")
    def test_a_crash_between_two_files_of_a_publication_leaves_none_out(
        self, run: Run, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.bodies |= {"/a.json": b"[1]", "/b.json": b"[2]"}
        data = tmp_path / "data"
        arguments = ("data", "--url", site.url + "/a.json", site.url + "/b.json", "--to", data)
        rename = Path.rename

        def until_the_second(path: Path, target: Path) -> Path:
            if target == data / "b.json":
                raise Killed
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", until_the_second)
            with pytest.raises(Killed):
                run(*arguments)
        assert (data / "a.json").exists()
        assert run(*arguments)[0] == 0
        assert [(data / name).read_bytes() for name in ("a.json", "b.json")] == [b"[1]", b"[2]"]

    def test_an_interrupted_publication_is_not_complete_and_starts_over(self, tmp_path: Path) -> None:
        target = Target(tmp_path / "t")
        with target.locked():
            work = target.start("a")
            (work / "one").write_text("1")
            target.finish("a", work)
        assert target.holds("a")
        (tmp_path / "t" / "one").write_text("cut off"[:2])
        assert not target.holds("a")
        assert not target.holds("b")

    def test_an_attempt_at_the_same_source_finds_what_the_last_one_left(self, tmp_path: Path) -> None:
        target = Target(tmp_path / "t")
        with target.locked():
            (target.start("a") / "half").write_text("1")
            assert (target.start("a") / "half").exists()
            assert not (target.start("b") / "half").exists()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("team/tool:2", "docker.io/team/tool:2"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("reg.example/a:1@sha256:abc", "reg.example/a@sha256:abc"),
    ],
)
def test_image_names_are_read_as_the_kubelet_reads_them(text: str, parsed: str) -> None:
    assert str(Reference.parse(text)) == parsed


def test_the_help_comes_without_loading_anything_heavy() -> None:
    code = (
        "import sys, runtime.fetch as f\n"
        "try: f.main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'huggingface_hub', 'tenacity', 'prometheus_client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_bad_command_line_ends_with_the_contracts_code() -> None:
    done = subprocess.run([sys.executable, "-m", "runtime.fetch", "data"], capture_output=True, check=False)
    assert done.returncode == ExitCode.CONFIG_INVALID


def test_the_termination_report_is_json_the_controller_can_read(run: Run, tmp_path: Path) -> None:
    run("data", "--url", "ftp://x/y", "--to", tmp_path / "x")
    assert json.loads((tmp_path / "termination-log").read_text())["exit"] == ExitCode.CONFIG_INVALID
