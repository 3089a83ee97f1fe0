"""JSON of the API server to frozen structs, and back.

One decoder per kind, made once. A field whose shape surprises us must not cost the object: the second, slow way keeps
everything that still makes sense, falls back to the field's default for the rest, counts it and says so in the log.
Refuses to know what an object means; `kube.client` and `kube.watch` are the callers.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec
from prometheus_client.core import Metric

from kube import metrics
from kube.meta import Object, Resource, Wire

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)
F = TypeVar("F")

R = TypeVar("R")

encode = msgspec.json.Encoder().encode
# The API server accepts JSON nested up to Go's limit, ten times deeper than Python's own, which msgspec obeys.
DEEPEST = 10_000


class ListMeta(Wire, frozen=True, kw_only=True):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list."""

    metadata: ListMeta = ListMeta()
    items: tuple[T, ...] = ()


class Frame(msgspec.Struct, Generic[F], frozen=True, gc=False):
    """One line of a watch: its type and an object of the watched kind, a Bookmark, or a Status."""

    type: str
    object: F


class Status(Wire, frozen=True, kw_only=True):
    """metav1.Status: how the API server says no, in a response body or in the middle of a watch."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: dict[str, Any] | None = None


class Bookmark(Object, frozen=True, kw_only=True):
    """An object of which only the metadata counts."""


class _RawFrame(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _RawPage(msgspec.Struct, frozen=True):
    metadata: ListMeta = ListMeta()
    items: tuple[msgspec.Raw, ...] = ()


class Codec(Generic[T]):
    """The decoders of one kind. Raises ValueError where the text is no JSON or lacks what every object has."""

    def __init__(self, resource: Resource[T]) -> None:
        self._resource = resource
        self._object = msgspec.json.Decoder(resource.type)
        self._page = msgspec.json.Decoder(Page[resource.type])  # type: ignore[name-defined]  # a type made at run time
        self._frame = msgspec.json.Decoder(Frame[resource.type])  # type: ignore[name-defined]  # likewise
        self.salvaged = 0
        metrics.publish(self)

    def object(self, body: bytes | msgspec.Raw) -> T:
        try:
            return self._object.decode(body)
        except msgspec.ValidationError as error:
            return self._salvage(body, error)
        except RecursionError:
            return deep(self.object, body)

    def page(self, body: bytes) -> Page[T]:
        try:
            return self._page.decode(body)
        except msgspec.ValidationError:
            raw = msgspec.json.decode(body, type=_RawPage)
            return Page(raw.metadata, tuple(self.object(item) for item in raw.items))
        except RecursionError:
            return deep(self.page, body)

    def frame(self, line: bytes) -> Frame[T] | Frame[Bookmark] | Frame[Status]:
        """One watch line: an event, a bookmark, or the error that ends the stream. A blank line is a frame of no type."""
        try:
            frame: Frame[T] = self._frame.decode(line)
            if frame.type in ("ADDED", "MODIFIED", "DELETED"):
                return frame
        except RecursionError:
            return deep(self.frame, line)
        except msgspec.DecodeError:
            # An ERROR or BOOKMARK need not look like an object of this kind; or the object must be salvaged.
            if not line.strip():
                return Frame("", Bookmark())
        raw = msgspec.json.decode(line, type=_RawFrame)
        if raw.type == "ERROR":
            return Frame(raw.type, msgspec.json.decode(raw.object, type=Status))
        if raw.type == "BOOKMARK":
            return Frame(raw.type, msgspec.json.decode(raw.object, type=Bookmark))
        return Frame(raw.type, self.object(raw.object))

    def collect(self) -> Iterator[Metric]:
        series = {"watch_decode_errors": ("Objects with a field of unexpected shape.", float(self.salvaged))}
        yield from metrics.counters(["name"], [self._resource.plural], series)

    def _salvage(self, body: bytes | msgspec.Raw, error: msgspec.ValidationError) -> T:
        self.salvaged += 1
        log.warning("Decoding %s found a field of unexpected shape: %s", self._resource.kind, error)
        salvaged = lenient(self._resource.type, msgspec.json.decode(body))
        if not isinstance(salvaged, self._resource.type) or not salvaged.metadata.name:
            raise ValueError(f"no {self._resource.kind} can be read from what the API server sent") from error
        return salvaged


def deep(decode: Callable[[Any], R], text: Any) -> R:
    """Decode what is nested deeper than Python allows otherwise. Raises ValueError where it is deeper than anything may be.

    One such object, even in a field that we skip, must not end the mirror of a kind.
    """
    limit = sys.getrecursionlimit()
    if limit > DEEPEST:
        raise ValueError(f"JSON from the API server is nested deeper than {DEEPEST}")
    sys.setrecursionlimit(limit + DEEPEST)
    try:
        return decode(text)
    finally:
        sys.setrecursionlimit(limit)


def lenient(shape: Any, value: Any) -> Any:
    """Convert `value`, leaving struct fields that do not fit at their defaults; `msgspec.UNSET` where nothing fits."""
    try:
        return msgspec.convert(value, shape, strict=False)
    except msgspec.ValidationError:
        if not (isinstance(shape, type) and issubclass(shape, msgspec.Struct) and isinstance(value, dict)):
            return msgspec.UNSET
    kept = {}
    for field in msgspec.structs.fields(shape):
        if field.encode_name in value:
            converted = lenient(field.type, value[field.encode_name])
            if converted is not msgspec.UNSET:
                kept[field.name] = converted
    try:
        return shape(**kept)
    except TypeError:  # a required field was lost
        return msgspec.UNSET


_codecs: dict[Resource[Any], Codec[Any]] = {}


def codec(resource: Resource[T]) -> Codec[T]:
    """The codec of a kind, made at its first use."""
    known = _codecs.get(resource)
    if known is None:
        known = _codecs[resource] = Codec(resource)
    return known
