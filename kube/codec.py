"""JSON of the API server to frozen structs, and back.

One decoder per kind, made once. A field whose shape surprises us must not cost the object, nor an item its list: the
second, slow way keeps everything that still makes sense, leaves out odd items, falls back to the field's default for the
rest, counts it and says so in the log. What has no name is no object.
Refuses to know what an object means; `kube.client` and `kube.watch` are the callers.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec
from prometheus_client.core import Metric

from kube import metrics
from kube.delta import EventType
from kube.meta import Object, Resource, Wire

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)
F = TypeVar("F")

R = TypeVar("R")

encode = msgspec.json.Encoder().encode
# The types of watch lines that carry an object of the watched kind.
CHANGES = frozenset(str(each) for each in EventType)
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
            return self._named(self._object.decode(body))
        except msgspec.ValidationError as error:
            return self._salvage(body, error)
        except RecursionError:
            return deep(self.object, body)

    def page(self, body: bytes) -> Page[T]:
        try:
            page: Page[T] = self._page.decode(body)
        except msgspec.ValidationError:
            raw = msgspec.json.decode(body, type=_RawPage)
            return Page(raw.metadata, tuple(self.object(item) for item in raw.items))
        except RecursionError:
            return deep(self.page, body)
        for item in page.items:
            self._named(item)
        return page

    def frame(self, line: bytes) -> Frame[T] | Frame[Bookmark] | Frame[Status]:
        """One watch line: an event, a bookmark, or the error that ends the stream. A blank line is a frame of no type."""
        try:
            frame: Frame[T] = self._frame.decode(line)
            if frame.type in CHANGES and frame.object.metadata.name:
                return frame
        except RecursionError:
            return deep(self.frame, line)
        except msgspec.DecodeError:
            # An ERROR or BOOKMARK need not look like an object of this kind; or the object must be salvaged.
            if not line.strip():
                return Frame("", Bookmark())
        raw = msgspec.json.decode(line, type=_RawFrame)
        if raw.type in CHANGES:
            return Frame(raw.type, self.object(raw.object))
        if raw.type == "ERROR":
            return Frame(raw.type, msgspec.json.decode(raw.object, type=Status))
        return Frame(raw.type, msgspec.json.decode(raw.object, type=Bookmark))

    def collect(self) -> Iterator[Metric]:
        series = {"watch_decode_errors": ("Objects with a field of unexpected shape.", float(self.salvaged))}
        yield from metrics.counters(["name"], [self._resource.plural], series)

    def _salvage(self, body: bytes | msgspec.Raw, error: msgspec.ValidationError) -> T:
        self.salvaged += 1
        log.warning("Decoding %s found a field of unexpected shape: %s", self._resource.kind, error)
        return self._named(lenient(self._resource.type, msgspec.json.decode(body)))

    def _named(self, item: Any) -> T:
        """`item`, if it is one: without a name it would be kept under a key that no object has."""
        if not isinstance(item, self._resource.type) or not item.metadata.name:
            raise ValueError(f"no {self._resource.kind} can be read from what the API server sent")
        return item


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
    """Convert `value` without the fields and items in it that do not fit; `msgspec.UNSET` where nothing does."""
    try:
        return msgspec.convert(value, shape, strict=False)
    except msgspec.ValidationError:
        return _parts(shape, value)


def _parts(shape: Any, value: Any) -> Any:
    """What fits of a `value` that does not fit as a whole."""
    origin, inner = get_origin(shape), get_args(shape)
    if origin is Annotated:
        return lenient(inner[0], value)
    if origin in (Union, UnionType):
        return next(_fitting(lenient(each, value) for each in inner), msgspec.UNSET)
    if origin is tuple and isinstance(value, list):
        return tuple(_fitting(lenient(inner[0], item) for item in value))
    if not isinstance(value, dict):
        return msgspec.UNSET
    if origin is Mapping:
        converted = {name: lenient(inner[1], item) for name, item in value.items()}
        return {name: item for name, item in converted.items() if item is not msgspec.UNSET}
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        return _struct(shape, value)
    return msgspec.UNSET


def _struct(shape: type[msgspec.Struct], value: dict[str, Any]) -> Any:
    """A struct whose fields that do not fit are at their defaults; UNSET where one of them has none."""
    known = {field.name: field for field in msgspec.structs.fields(shape) if field.encode_name in value}
    converted = {name: lenient(field.type, value[field.encode_name]) for name, field in known.items()}
    try:
        return shape(**{name: item for name, item in converted.items() if item is not msgspec.UNSET})
    except TypeError:  # a required field was lost
        return msgspec.UNSET


def _fitting(items: Iterator[Any]) -> Iterator[Any]:
    return (item for item in items if item is not msgspec.UNSET)


_codecs: dict[Resource[Any], Codec[Any]] = {}


def codec(resource: Resource[T]) -> Codec[T]:
    """The codec of a kind, made at its first use."""
    known = _codecs.get(resource)
    if known is None:
        known = _codecs[resource] = Codec(resource)
    return known
