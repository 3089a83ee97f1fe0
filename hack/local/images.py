"""The images of the box: built once per content, kept in the public registry's storage, found again by their tag.

A tag that names a hash of everything that goes into the image exists or does not: that is the whole cache. An image of
ours is a *deps* image, which takes minutes, and a *code* layer, which takes seconds (Dockerfile); the two are joined in
the registry, so that a change in the sources moves only that layer. Nothing here needs a cluster.
"""

import configparser
import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.local import registry
from hack.local.buildah import Store, store
from hack.local.console import run, run_with_progress, step
from hack.local.oci import Repository

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = REPOSITORY / "Dockerfile"
CURL = Path(__file__).parent / "curl"

SUITE = "bookworm"
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
DEPS = "deps-"  # begins the tags of the parts that take gigabytes
PAUSE = ["/bin/busybox", "sleep", "2147483647"]

Build = Callable[[Store, str], None]  # (store, address of the registry)


@dataclass(frozen=True)
class Part:
    """Something that is built in one go: `repository:key` in the registry."""

    repository: str
    key: str
    build: Build
    needs_base: bool = False

    @property
    def exists(self) -> bool:
        return tagged(self.repository, self.key) is not None


@dataclass(frozen=True)
class Image:
    """What a user names: `repository:tag`, joined of parts, the configuration being the first one's."""

    repository: str
    tag: str
    parts: tuple[Part, ...]

    @property
    def key(self) -> str:
        """The tag of this very content; `tag` is moved to it."""
        return self.parts[0].key if len(self.parts) == 1 else _digest(part.key for part in self.parts)

    @property
    def current(self) -> bool:
        wanted = tagged(self.repository, self.key)
        return wanted is not None and tagged(self.repository, self.tag) == wanted


def ensure(folder: Path, wanted: Sequence[Image]) -> None:
    """Build and push what is missing of these images."""
    stale = [image for image in wanted if not image.current]
    if not stale:
        return
    missing = [part for image in stale for part in image.parts if not part.exists]
    with registry.loopback(folder) as address:
        if missing:
            _build_parts(missing, address, folder)
        for image in stale:
            _join(image, Repository(address, image.repository))
        heavy = {part.repository for part in missing if part.key.startswith(DEPS)}
        for image in (image for image in stale if image.repository in heavy):
            _remove_superseded(image, Repository(address, image.repository))
    if heavy:  # gigabytes that nothing refers to any more
        registry.collect_garbage(folder)


def node_images() -> list[Image]:
    """What a node itself needs, and the curl image of the seed's session."""
    curl_key = _digest([base_part().key, *_contents([CURL / "Dockerfile", CURL / "entrypoint.sh"])])
    curl = Part("curlimages/curl", f"key-{curl_key}", _build_curl, needs_base=True)
    pause = Part("pause", f"key-{_digest([*PAUSE, *_contents([_busybox()])])}", _build_pause)
    return [Image("pause", "1", (pause,)), Image("curlimages/curl", "latest", (curl,))]


def product_images() -> list[Image]:
    """Our two images from our Dockerfile, the runtime's for machines without a GPU."""
    cpu = {"REQUIREMENTS": "requirements-cpu.txt", "OVERRIDE": "requirements-cpu-override.txt"}
    control_inputs = [_requirements(), *_contents([REPOSITORY / "hack" / "requirements-dev.txt"])]
    runtime_inputs = _contents(REPOSITORY / "runtime" / name for name in cpu.values())
    return [
        Image("kaito/control", "dev", (_deps("control", control_inputs, {}), _code("control"))),
        Image("kaito/runtime", "dev", (_deps("runtime", runtime_inputs, cpu), _code("runtime"))),
    ]


def base_part() -> Part:
    """Debian with Python: what stands for the Dockerfile's PYTHON_IMAGE where no registry can be reached."""
    return Part("base", f"key-{_digest([SUITE, *BASE_PACKAGES])}", _build_base)


def tagged(repository: str, tag: str) -> str | None:
    """The digest behind a tag, read from the storage; no registry need run."""
    tags = registry.public_storage() / "docker/registry/v2/repositories" / repository / "_manifests/tags"
    link = tags / tag / "current" / "link"
    return link.read_text() if link.exists() else None


def stage_text(dockerfile: str, stage: str) -> str:
    """What one stage of a Dockerfile says, with the arguments before the first stage, without comments."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.startswith("#")]
    starts = [index for index, line in enumerate(lines) if line.startswith("FROM ")]
    for begin, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        if re.search(rf"(?i) as {re.escape(stage)}$", lines[begin]):
            return "\n".join([*lines[: starts[0]], *lines[begin:end]])
    raise ValueError(f"the Dockerfile has no stage {stage}")


def copied(stage: str) -> list[Path]:
    """The files that the COPY lines of a stage take from the repository."""
    lines = [line.split()[1:-1] for line in stage.splitlines() if line.startswith("COPY ")]
    named = [REPOSITORY / name for names in lines for name in names]
    return [file for path in named for file in (_sources(path) if path.is_dir() else [path])]


def _build_parts(parts: Iterable[Part], address: str, folder: Path) -> None:
    with store(folder) as images:
        unique = {(part.repository, part.key): part for part in parts}.values()
        if any(part.needs_base for part in unique) and not base_part().exists:
            _build_part(base_part(), images, address)
        for part in unique:
            _build_part(part, images, address)


def _build_part(part: Part, images: Store, address: str) -> None:
    with step(f"built {part.repository}:{part.key}"):
        part.build(images, address)
        images.push(f"{address}/{part.repository}:{part.key}")


def _join(image: Image, repository: Repository) -> None:
    if tagged(image.repository, image.key) is None:
        base, top = image.parts
        repository.graft(base.key, top.key, image.key)
    repository.retag(image.key, image.tag)


def _remove_superseded(image: Image, repository: Repository) -> None:
    """Remove everything else of the repository. Removing a manifest removes every tag of it, so digests are compared."""
    kept = {tagged(image.repository, tag) for tag in (image.tag, image.key, *(part.key for part in image.parts))}
    for tag in repository.tags():
        digest = tagged(image.repository, tag)
        if digest is not None and digest not in kept:
            repository.delete(tag)


def _deps(name: str, inputs: Sequence[str], arguments: Mapping[str, str]) -> Part:
    text = stage_text(DOCKERFILE.read_text(), f"{name}-deps")
    words = [base_part().key, text, *inputs, *(f"{key}={value}" for key, value in arguments.items())]

    def build(images: Store, address: str) -> None:
        full = {**arguments, "PYTHON_IMAGE": f"{address}/{base_part().repository}:{base_part().key}"}
        images.build(DOCKERFILE, REPOSITORY, f"{name}-deps", full)

    return Part(f"kaito/{name}", f"{DEPS}{_digest(words)}", build, needs_base=True)


def _code(name: str) -> Part:
    text = stage_text(DOCKERFILE.read_text(), f"{name}-code")
    words = [text, *_contents(copied(text))]

    def build(images: Store, _: str) -> None:
        images.build(DOCKERFILE, REPOSITORY, f"{name}-code")

    return Part(f"kaito/{name}", f"code-{_digest(words)}", build)


def _build_base(images: Store, _: str) -> None:
    tree = images.root.parent / "base"
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", SUITE, str(tree)]
    run_with_progress("debootstrap", command, environment=images.environment())
    for cached in (tree / "var/cache/apt/archives").glob("*.deb"):
        cached.unlink()
    images.import_tree(tree)
    shutil.rmtree(tree)


def _build_curl(images: Store, address: str) -> None:
    base = f"{address}/{base_part().repository}:{base_part().key}"
    images.build(CURL / "Dockerfile", CURL, "", {"PYTHON_IMAGE": base})


def _build_pause(images: Store, _: str) -> None:
    container = images.run("from", "scratch").strip()
    images.run("copy", "--quiet", container, _busybox(), PAUSE[0])
    images.run("config", "--entrypoint", str(PAUSE).replace("'", '"'), container)
    images.commit(container)


def _busybox() -> Path:
    """Debian's static one: it needs nothing else in the image."""
    return Path(run("sh", "-c", "command -v busybox").strip())


def _sources(folder: Path) -> list[Path]:
    """Files of a package as the Dockerfile copies it (.dockerignore)."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts
    )


def _requirements() -> str:
    """What the Dockerfile reads out of setup.cfg; the rest of that file does not go into the image."""
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    return parser["options"]["install_requires"]


def _contents(paths: Iterable[Path]) -> list[str]:
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]


def _digest(words: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
