"""Turns examples into token ids and labels, so that by default only what the assistant says is learned.

Three ways to find the assistant's tokens, best first: the template marks them (`{% generation %}`), TRL knows a marked
twin of the template, or the conversation is rendered up to each turn and the difference taken, which needs a template
whose output only grows. Where none works, training is refused rather than done on the wrong tokens.
It knows tokenizers by the two methods that it calls.
"""

import dataclasses
import enum
from collections.abc import Iterable, Sequence
from typing import Any

from runtime.contract import ExitCode, Reason
from runtime.data.files import invalid
from runtime.data.shapes import Completion, Conversation, Example, Message, Text, Tokens
from runtime.fault import Fault

IGNORED = -100  # torch's label for "no loss here"


class Method(enum.StrEnum):
    MARKED = "the template's generation marks"
    TWIN = "TRL's training template"
    PREFIX = "prefix difference"
    NONE = "nothing: the data has no conversations"


@dataclasses.dataclass(frozen=True)
class Encoded:
    input_ids: list[int]
    labels: list[int]

    @property
    def learned(self) -> int:
        return sum(label != IGNORED for label in self.labels)

    def cut(self, length: int) -> "Encoded":
        return Encoded(self.input_ids[:length], self.labels[:length])


class Encoder:
    """Encodes examples for one tokenizer. `everything` learns from prompts too."""

    def __init__(self, tokenizer: Any, method: Method, template: str | None, *, everything: bool = False) -> None:
        self.tokenizer = tokenizer
        self.method = method
        self.template = template
        self.everything = everything

    @classmethod
    def choose(cls, tokenizer: Any, sample: Sequence[Example], *, everything: bool = False) -> "Encoder":
        """Choose how to mask by trying it on a sample. Raises Fault when the template allows no way."""
        conversations = [example for example in sample if isinstance(example, Conversation)]
        if not conversations:
            return cls(tokenizer, Method.NONE, None, everything=everything)
        template = tokenizer.chat_template
        if not template:
            raise _refused("has no chat template; set ModelConfig.chat_template, or use prompt and completion columns")
        if everything:
            return cls(tokenizer, Method.NONE, template, everything=True)
        if "generation %}" in template or "generation -%}" in template:
            return cls(tokenizer, Method.MARKED, template)
        twin = _twin(tokenizer)
        if twin is not None:
            return cls(tokenizer, Method.TWIN, twin)
        chosen = cls(tokenizer, Method.PREFIX, template)
        for example in conversations:
            chosen.encode(example)
        return chosen

    def encode(self, example: Example) -> Encoded:
        match example:
            case Conversation(messages):
                encoded = self._conversation(messages)
            case Completion(prompt, completion):
                encoded = self._completion(prompt, completion)
            case Text(text):
                ids = [*self.tokenizer(text)["input_ids"], *self._end()]
                encoded = Encoded(ids, ids)
            case Tokens(ids_, labels):
                encoded = Encoded(list(ids_), list(labels))
        return Encoded(encoded.input_ids, encoded.input_ids) if self.everything else encoded

    def _completion(self, prompt: str, completion: str) -> Encoded:
        head = self.tokenizer(prompt)["input_ids"]
        tail = [*self.tokenizer(completion, add_special_tokens=False)["input_ids"], *self._end()]
        return Encoded([*head, *tail], [IGNORED] * len(head) + tail)

    def _end(self) -> list[int]:
        return [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]

    def _conversation(self, messages: Sequence[Message]) -> Encoded:
        if self.method is Method.PREFIX:
            return self._by_prefix(messages)
        marked = self.method is not Method.NONE
        rendered = self.tokenizer.apply_chat_template(
            list(messages), chat_template=self.template, return_dict=True, return_assistant_tokens_mask=marked
        )
        ids: list[int] = rendered["input_ids"]
        if not marked:
            return Encoded(ids, ids)
        mask = rendered["assistant_masks"]
        return Encoded(ids, [token if learn else IGNORED for token, learn in zip(ids, mask, strict=True)])

    def _by_prefix(self, messages: Sequence[Message]) -> Encoded:
        """Learn what each assistant turn adds to the conversation before it, its end-of-turn token included."""
        full = self._render(messages)
        labels = [IGNORED] * len(full)
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:number], prompt=True)
            through = self._render(messages[: number + 1])
            if full[: len(through)] != through or through[: len(before)] != before:
                raise _refused(
                    "has a chat template that changes earlier turns, so the assistant's words cannot be told apart;"
                    " mark them with {% generation %} in ModelConfig.chat_template, or set DatasetConfig.train_on: all"
                )
            labels[len(before) : len(through)] = full[len(before) : len(through)]
        return Encoded(full, labels)

    def _render(self, messages: Sequence[Message], *, prompt: bool = False) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=prompt, return_dict=True, tokenize=True
        )["input_ids"]
        return ids


def _twin(tokenizer: Any) -> str | None:
    """TRL's template with generation marks, where it ships one for exactly this template."""
    from trl.chat_template_utils import get_training_chat_template

    try:
        template: str | None = get_training_chat_template(tokenizer)
    except ValueError:
        return None
    return template


def _refused(what: str) -> Fault:
    return Fault(ExitCode.MODEL_UNSUPPORTED, Reason.MODEL_UNSUPPORTED, f"this model {what}")


@dataclasses.dataclass(frozen=True)
class Encodings:
    """A whole data set, encoded. `dropped` rows had nothing left to learn after cutting to `max_length`."""

    rows: list[Encoded]
    max_length: int
    truncated: int
    dropped: int

    @property
    def tokens(self) -> int:
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def typical(self) -> int:
        """The length that 99.5 % of the rows do not exceed, and no row by more than twice."""
        lengths = sorted(len(row.input_ids) for row in self.rows)
        return max(_typical(lengths), lengths[-1] // 2)

    @property
    def learned_share(self) -> float:
        return sum(row.learned for row in self.rows) / max(self.tokens, 1)


def _typical(lengths: Sequence[int]) -> int:
    return lengths[int(0.995 * (len(lengths) - 1))]


def _fitting(lengths: Sequence[int]) -> int:
    """The longest row, unless it is far beyond what 99.5 % of the rows need: one outlier sets the memory of all."""
    typical = _typical(lengths)
    return lengths[-1] if lengths[-1] <= 2 * typical else typical


def encode_all(encoder: Encoder, examples: Iterable[Example], *, limit: int, max_length: int = 0) -> Encodings:
    """Encode everything. Without `max_length`, rows are cut where a few outliers alone would be, never above `limit`."""
    rows = [encoder.encode(example) for example in examples]
    lengths = sorted(len(row.input_ids) for row in rows)
    length = min(max_length or _fitting(lengths), limit)
    cut = [row.cut(length) for row in rows]
    kept = [row for row in cut if row.learned]
    if not kept:
        raise invalid(f"after cutting to {length} tokens no row has an answer left; raise max_length")
    return Encodings(kept, length, sum(size > length for size in lengths), len(cut) - len(kept))
