"""Which tokens are learned. The tokenizer is real and trained on the spot; needs the runtime environment."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.contract import ExitCode
from runtime.data.mask import IGNORED, Encoded, Encoder, Method, encode_all
from runtime.data.shapes import Completion, Conversation, Example, Text, Tokens
from runtime.fault import Fault
from test.runtime import tiny

pytestmark = [pytest.mark.runtime, pytest.mark.filterwarnings("default")]

UNMARKED, MARKED = tiny.tokenizer(tiny.TEMPLATE), tiny.tokenizer(tiny.MARKED)
FORGETFUL = tiny.TEMPLATE.replace("message['content'] +", "(message['content'] if loop.last else 'gone') +")


def turns(*contents: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(contents)))


def learned(encoded: Encoded) -> str:
    text: str = UNMARKED.decode([label for label in encoded.labels if label != IGNORED])
    return text


def test_only_the_assistants_words_and_their_end_are_learned() -> None:
    encoded = Encoder.choose(UNMARKED, [turns("q", "a")]).encode(turns("what", "that", "and", "this"))
    assert learned(encoded) == "that<|im_end|>\nthis<|im_end|>\n"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
def test_the_prefix_difference_finds_what_a_marked_template_marks(texts: list[str]) -> None:
    by_prefix = Encoder(UNMARKED, Method.PREFIX, tiny.TEMPLATE).encode(turns(*texts))
    by_marks = Encoder(MARKED, Method.MARKED, tiny.MARKED).encode(turns(*texts))
    assert by_prefix == by_marks


def test_marks_in_the_template_are_preferred() -> None:
    assert Encoder.choose(MARKED, [turns("q", "a")]).method is Method.MARKED
    assert Encoder.choose(UNMARKED, [turns("q", "a")]).method is Method.PREFIX


def test_a_template_that_trl_knows_is_exchanged_for_its_marked_twin() -> None:
    from trl.chat_template_utils import qwen3_chat_template

    known = tiny.tokenizer(qwen3_chat_template)
    chosen = Encoder.choose(known, [turns("q", "a")])
    assert chosen.method is Method.TWIN
    assert "a" in learned(chosen.encode(turns("q", "a")))


def test_a_template_that_changes_earlier_turns_is_refused() -> None:
    with pytest.raises(Fault, match="changes earlier turns") as raised:
        Encoder.choose(tiny.tokenizer(FORGETFUL), [turns("q", "a", "q", "a")])
    assert raised.value.exit == ExitCode.MODEL_UNSUPPORTED


def test_without_a_template_conversations_are_refused_and_text_is_not() -> None:
    bare = tiny.tokenizer(None)
    with pytest.raises(Fault, match="no chat template"):
        Encoder.choose(bare, [turns("q", "a")])
    assert Encoder.choose(bare, [Text("x")]).method is Method.NONE


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (Completion("the question", "the answer"), "the answer<|im_end|>"),
        (Text("all of it"), "all of it<|im_end|>"),
        (Tokens((5, 6, 7), (IGNORED, 6, 7)), UNMARKED.decode([6, 7])),
    ],
)
def test_other_shapes_learn_their_own_part(example: Example, text: str) -> None:
    assert learned(Encoder.choose(UNMARKED, [example]).encode(example)) == text


def test_train_on_all_learns_prompts_too() -> None:
    encoder = Encoder.choose(UNMARKED, [turns("q", "a")], everything=True)
    encoded = encoder.encode(turns("q", "a"))
    assert encoded.labels == encoded.input_ids


def test_an_outlier_is_cut_and_what_has_no_answer_left_is_dropped() -> None:
    encoder = Encoder.choose(UNMARKED, [turns("q", "a")])
    rows = [turns("q", "a")] * 300 + [turns("q" * 400, "a")]
    encodings = encode_all(encoder, rows, limit=512)
    assert (len(encodings.rows), encodings.truncated, encodings.dropped) == (300, 1, 1)


def test_no_row_is_longer_than_the_model_allows() -> None:
    encoder = Encoder.choose(UNMARKED, [Text("x")])
    encodings = encode_all(encoder, [Text("word " * 100)] * 3, limit=50)
    assert {len(row.input_ids) for row in encodings.rows} == {50}
    assert encodings.truncated == 3
