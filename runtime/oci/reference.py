"""Names of images, as Docker and the kubelet read them. Pure; knows no registry."""

import dataclasses
import ipaddress

DOCKER_HUB = "docker.io"


@dataclasses.dataclass(frozen=True)
class Reference:
    """`registry/repository:tag` or `registry/repository@digest`; of both only the digest counts, as in the kubelet."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Parse what stands in a pod's `image`. Raises ValueError."""
        name, _, digest = text.partition("@")
        head, _, rest = name.partition("/")
        has_registry = bool(rest) and ("." in head or ":" in head or head == "localhost")
        registry, path = (head, rest) if has_registry else (DOCKER_HUB, name)
        repository, colon, tag = path.rpartition(":")
        repository, tag = (repository, tag) if colon else (path, "")
        if registry == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        if not repository or repository != repository.lower() or any(c.isspace() for c in text):
            raise ValueError(f"`{text}` is not an image name (registry/repository:tag)")
        return cls(registry, repository, "" if digest else tag or "latest", digest)

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def host(self) -> str:
        return self.registry.rpartition(":")[0] or self.registry

    @property
    def plain_http(self) -> bool:
        """Registries on this very machine may go without TLS, as in containerd."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    def with_tag(self, tag: str) -> "Reference":
        return dataclasses.replace(self, tag=tag, digest="")

    def with_digest(self, digest: str) -> "Reference":
        return dataclasses.replace(self, tag="", digest=digest)
