"""Texts: what a prompt becomes, where a text ends, and how tokens read after their prompt."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Metaspace

from tests.scripted import scripted
from tests.tasks.test_encode import BOS, END, FILM, PAD, TEXT, words
from zofx.errors import UsageError
from zofx.tasks.decode import Decoder, gold_texts
from zofx.tasks.encode import Encoder
from zofx.tasks.metrics import text_match
from zofx.tasks.types import Example
from zofx.zo.types import Key

VOCABULARY = 64


def decoder(
    max_length: int = 32, *, stop: str | None = None, new: int = 4, truncate: bool = True
) -> Decoder:
    encoder = Encoder(words(TEXT), BOS, PAD, None, max_length, truncate)
    encoder.tokenizer.decoder = decoders.Fuse()  # its tokens have their spaces
    return Decoder(encoder, VOCABULARY, frozenset({END}), stop, new)


def says(decode: Decoder, *tokens: str) -> list[int]:
    vocabulary = decode.encoder.tokenizer.get_vocab()
    return [vocabulary[token] for token in tokens]


def test_a_prompt_has_the_bos_of_rows_and_loses_its_spaces() -> None:
    """What is continued is what teacher forcing scores a completion after."""
    decode = decoder()
    example = Example("the film was ", (" good",))
    scored = decode.encoder.encode([example]).batch
    assert decode.encoder.prompt(example) == tuple(
        scored.input_ids[0, : scored.positions[0, 0] + 1].tolist()
    )
    assert decode.encoder.prompt(example)[0] == BOS


def test_a_prompt_that_is_cut_leaves_room_for_a_text() -> None:
    """Eight tokens in a row of eight lose as many on their left as a text may have; not the bos."""
    encoder = decoder(8).encoder
    whole = encoder.prompt(FILM, 1)
    assert len(whole) == 7
    assert encoder.prompt(FILM, 4) == (BOS, *whole[-3:])
    with pytest.raises(UsageError, match="9 tokens do not fit the 8 positions"):
        decoder(8, truncate=False).encoder.prompt(FILM)


def test_a_long_text_leaves_half_of_the_row_to_its_prompt() -> None:
    """Where a text may be longer than the model's positions, prompts still hold something."""
    session, kept = scripted(lambda total, text: END)
    decoder(8, new=50).answers(session, [FILM])
    assert [len(text) for text in kept.asked[0][1]] == [4]


def test_an_empty_prompt_is_an_error_unless_a_bos_stands_before_it() -> None:
    """There has to be a token to continue."""
    encoder = decoder().encoder
    assert encoder.prompt(Example(" ", ("x",))) == (BOS,)
    plain = Encoder(encoder.tokenizer, None, PAD, None, 32)
    with pytest.raises(UsageError, match="mine 3: the prompt is empty"):
        plain.prompt(Example(" ", ("x",), id="mine 3"))


@pytest.mark.parametrize(
    ("stop", "text", "forwards"),
    [(None, " a dull film film", 4), (" film", " a dull", 3), ("ull", " a d", 2)],
)
def test_a_text_ends_before_its_stop(stop: str | None, text: str, forwards: int) -> None:
    """A token that holds the stop ends the row, and the text is cut inside that token."""
    decode = decoder(stop=stop)
    script = says(decode, " a", " dull", " film", " film")
    session, kept = scripted(lambda total, row: script[len(row) - 4])
    assert decode.answers(session, [Example("the film was", ("x",))]) == [[text]]
    assert len(kept.asked) == forwards


def test_the_end_of_sequence_is_no_part_of_a_text() -> None:
    """It ends the row and is not read, be it a special token of the tokenizer or not."""
    decode = decoder()
    (great,) = says(decode, " great")
    session, _ = scripted(lambda total, row: END if row[-1] == great else great)
    assert decode.answers(session, [FILM]) == [[" great"]]
    ended = Decoder(decode.encoder, VOCABULARY, frozenset({great}), None, 4)
    assert ended.text([BOS], [*says(decode, " so"), great]) == " so"


def test_every_token_that_holds_the_stop_is_one() -> None:
    """Byte-pair tokenizers merge a newline with its neighbours: all such tokens end a row."""
    vocabulary = {token: i for i, token in enumerate(("a", ".", "\n", ".\n", "\n\n", "</s>"))}
    merges = [(".", "\n"), ("\n", "\n")]
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    decode = Decoder(Encoder(tokenizer, None, 0, None, 32), 6, frozenset({5}), "\n")
    assert decode.stop_ids == {2, 3, 4, 5}


def test_a_text_keeps_the_space_it_begins_with() -> None:
    """A tokenizer that drops the first space of what it decodes is asked for prompt and text."""
    tokenizer = Tokenizer(WordLevel({"▁it": 0, "▁was": 1, "▁great": 2}, unk_token="▁it"))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    decode = Decoder(Encoder(tokenizer, None, 0, None, 32), 3, frozenset())
    assert tokenizer.decode([2]) == "great"
    assert decode.text([0, 1], [2]) == " great"


def test_probes_answer_for_themselves() -> None:
    """P × B texts, each of its own probe and example."""
    decode = decoder(new=1)
    good, dull = says(decode, " good", " dull")
    session, _ = scripted(lambda total, row: good if total >= 0 else dull)
    examples = [FILM, Example("It was", ("x",))]
    matrix = np.array([[0.5], [-0.5]], dtype=np.float32)
    texts = decode.answers(session, examples, [Key(0, 0)], matrix)
    assert texts == [[" good", " good"], [" dull", " dull"]]


def test_special_tokens_at_the_end_of_a_gold_are_no_text() -> None:
    """However many, and the ends of a text that the tokenizer does not call special."""
    tokenizer = Tokenizer(WordLevel({"</s>": 0, "<pad>": 1, "six": 2, "<|end|>": 3}, "six"))
    tokenizer.add_special_tokens(["</s>", "<pad>"])
    encoder = Encoder(tokenizer, None, 1, None, 8)
    texts = [" six</s>", " six\n<|end|></s>", " </s> six", "</s>", " six"]
    expected = [" six", " six\n", " </s> six", "", " six"]
    assert gold_texts(encoder, {0, 3}, texts) == expected
    decoder = Decoder(encoder, 4, frozenset({0, 3}))
    asked = Example("how many", (" six</s>",), references=("six</s>",))
    assert text_match([" six"], [decoder.judged(asked)]).exact == 1
