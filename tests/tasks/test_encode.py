"""Encoding: what is scored where, and that no choice of layout changes a score."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing

from zofx.errors import UsageError
from zofx.session import IGNORED, Batch
from zofx.tasks.conventions import encoder_for
from zofx.tasks.encode import Encoder
from zofx.tasks.rows import Encoded
from zofx.tasks.types import Example
from zofx.zo.types import FloatArray, IntArray

PAD, BOS, MASK, END, UNKNOWN = 0, 1, 2, 3, 4
SPECIAL = ("<pad>", "<s>", "<mask>", "</s>", "<unk>")


def words(text: str) -> Tokenizer:
    """One token per word, each with the space before it, as byte-level BPE would have it."""
    known = sorted({piece for word in text.split() for piece in (word, f" {word}")})
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *known))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(" ", "merged_with_next")
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def masked_words(text: str) -> Tokenizer:
    """The same with a special token on either side, as masked models have."""
    tokenizer = words(text)
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", END)]
    )
    return tokenizer


def letters(merges: Sequence[tuple[str, str]] = ()) -> Tokenizer:
    """A BPE tokenizer over letters, spaces and newlines with the given merges."""
    alphabet = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [" ", "\n"]
    alphabet.append(".")
    tokens = (*SPECIAL, *alphabet, *(left + right for left, right in merges))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return Tokenizer(BPE(vocabulary, list(merges), unk_token="<unk>"))


def table_model(batch: Batch, probes: int = 2) -> FloatArray:
    """A causal model made of a hash of the probe, the tokens up to a position, and the next one.

    Returns:
        f32[P, N, C]: the mean over scored positions, as a session computes it; NaN without any.
    """
    N, S, C = batch.targets.shape
    out = np.full((probes, N, C), np.nan, dtype=np.float64)
    for p, n, c in np.ndindex(probes, N, C):
        scored = [
            _logprob(
                p, batch.input_ids[n, : batch.positions[n, s] + 1], int(batch.targets[n, s, c])
            )
            for s in range(S)
            if batch.targets[n, s, c] != IGNORED
        ]
        if scored:
            out[p, n, c] = np.mean(scored)
    return out.astype(np.float32)


def _logprob(probe: int, context: IntArray, token: int) -> float:
    state = 17 + probe
    for item in (*map(int, context), token):
        state = (state * 1_000_003 + item + 1) % 2**61
    return -0.1 - (state % 10_007) / 1_000


TEXT = "the film was good . It bad fine It's great terrible a so dull"
FILM = Example("the film was good . It was", (" bad", " great"), 1)


def encoder(max_length: int = 32, *, bos: int | None = BOS, truncate: bool = True) -> Encoder:
    return Encoder(words(TEXT), bos, PAD, None, max_length, truncate)


def masked_encoder(max_length: int = 32, *, truncate: bool = True) -> Encoder:
    return Encoder(masked_words(TEXT), BOS, PAD, MASK, max_length, truncate)


def decoded(encoded: Encoded, encoder: Encoder, row: int) -> list[str]:
    """The tokens of a row that its mask shows."""
    ids = encoded.batch.input_ids[row][encoded.batch.attention_mask[row] == 1]
    return [encoder.tokenizer.id_to_token(int(index)) or "" for index in ids]


def test_single_tokens_share_a_row() -> None:
    """Single-token candidates become alternatives at the last token of the prompt."""
    encode = encoder()
    encoded = encode.encode([FILM])
    assert decoded(encoded, encode, 0) == [
        "<s>",
        "the",
        " film",
        " was",
        " good",
        " .",
        " It",
        " was",
    ]
    assert encoded.batch.positions.tolist() == [[7]]
    bad, great = (encode.tokenizer.token_to_id(word) for word in FILM.candidates)
    assert encoded.batch.targets.tolist() == [[[bad, great]]]
    assert encoded.row_candidate.tolist() == [[0, 1]]
    assert encoded.gold.tolist() == [1]
    assert encoded.counts.tolist() == [[1, 1]]


def test_longer_options_take_a_row_each() -> None:
    """A longer option has a row, and each of its tokens is scored at the token before."""
    encode = encoder()
    encoded = encode.encode([Example("It was", (" a bad film", " fine"), 0)])
    assert decoded(encoded, encode, 0) == ["<s>", "It", " was", " a", " bad"]
    assert decoded(encoded, encode, 1) == ["<s>", "It", " was"]
    assert encoded.batch.positions.tolist() == [[2, 3, 4], [2, 0, 0]]
    ids = [encode.tokenizer.token_to_id(word) for word in (" a", " bad", " film", " fine")]
    assert encoded.batch.targets[:, :, 0].tolist() == [ids[:3], [ids[3], IGNORED, IGNORED]]
    assert encoded.counts.tolist() == [[3, 1]]


def test_a_batch_is_relative_where_candidates_share_rows() -> None:
    """If asked, and every example has one row; candidates of several rows compare as they are."""
    encode = encoder()
    longer = Example("It was", (" a bad film", " fine"), 0)
    assert encode.encode([FILM, FILM], relative=True).batch.relative
    assert not encode.encode([FILM]).batch.relative
    assert not encode.encode([FILM, longer], relative=True).batch.relative


def test_both_layouts_score_the_same() -> None:
    """A shared row and one row per candidate give equal scores, in a batch of both kinds."""
    encode = encoder()
    ragged = Example("the film was", (" a bad film", " fine", " good"), 2)
    alone = [
        encode.encode([replace(FILM, candidates=(word,), answer=0)]) for word in FILM.candidates
    ]
    expected = [e.scores(table_model(e.batch))[:, 0, 0] for e in alone]
    encoded = encode.encode([ragged, FILM])
    scores = encoded.scores(table_model(encoded.batch))
    assert scores.shape == (2, 2, 3)
    np.testing.assert_array_equal(scores[:, 1, :2], np.stack(expected, axis=1))
    assert np.isneginf(scores[:, 1, 2]).all()
    assert np.isfinite(scores[:, 0]).all()


def test_padding_changes_no_score() -> None:
    """A row beside a longer one, and rounded to another length, scores as alone."""
    long = Example("the film was good . It was a so so dull film", (" bad", " great"))
    tight, wide = encoder(), replace(encoder(), multiple=16)
    alone = tight.encode([FILM])
    together = wide.encode([long, FILM])
    assert alone.batch.input_ids.shape == (1, 8)
    assert together.batch.input_ids.shape == (2, 16)
    np.testing.assert_array_equal(
        alone.scores(table_model(alone.batch))[:, 0],
        together.scores(table_model(together.batch))[:, 1],
    )


def test_labels_without_bos() -> None:
    """Without a bos token everything moves one to the left and the targets stay."""
    plain, with_bos = encoder(bos=None).encode([FILM]), encoder().encode([FILM])
    assert plain.batch.positions.tolist() == [[6]]
    np.testing.assert_array_equal(plain.batch.targets, with_bos.batch.targets)
    np.testing.assert_array_equal(plain.batch.input_ids[0, :7], with_bos.batch.input_ids[0, 1:8])


# merges of a tokenizer of letters, prompt, candidates → the tokens of the prompt and of each option
MERGED: list[tuple[list[tuple[str, str]], str, tuple[str, str], list[str], list[list[str]]]] = [
    ([("a", "b"), ("ab", "c")], "xab", ("cd", "dd"), ["x", "ab"], [["c", "d"], ["d", "d"]]),
    ([("a", "b"), ("ab", "c")], "xab", ("c", "d"), ["x", "ab"], [["c"], ["d"]]),
    # "un" + "able": what tells "unable to" from "unhappy to" is scored
    (
        [("u", "n"), ("un", "a"), ("un", "h")], "is un", ("a to", "h to"),
        ["i", "s", " ", "un"], [["a", " ", "t", "o"], ["h", " ", "t", "o"]],
    ),
    # a newline that merges with what stands before it
    ([(".", "\n")], "go.", ("\nx", "\ny"), ["g", "o", "."], [["\n", "x"], ["\n", "y"]]),
    ([], "go.", (" x", " y"), ["g", "o", "."], [[" ", "x"], [" ", "y"]]),
]  # fmt: skip


@pytest.mark.parametrize(("merges", "prompt", "candidates", "before", "options"), MERGED)
def test_no_merge_hides_a_candidate(
    merges: list[tuple[str, str]],
    prompt: str,
    candidates: tuple[str, str],
    before: list[str],
    options: list[list[str]],
) -> None:
    """Rows begin with what generation continues; every token of a candidate is scored after it."""
    tokenizer = letters(merges)
    encode = Encoder(tokenizer, BOS, PAD, None, 32)
    example = Example(prompt, candidates)
    encoded = encode.encode([example])
    assert [tokenizer.id_to_token(i) for i in encode.prompt(example)] == ["<s>", *before]
    for candidate, option in enumerate(options):
        row = int(encoded.row_example.shape[0] > 1 and candidate)
        column = encoded.row_candidate[row].tolist().index(candidate)
        targets = encoded.batch.targets[row, :, column]
        assert [tokenizer.id_to_token(i) for i in targets[targets != IGNORED]] == option
        assert decoded(encoded, encode, row)[: len(before) + 1] == ["<s>", *before]
        assert encoded.batch.positions[row, 0] == len(before)


@pytest.mark.parametrize("make", [encoder, masked_encoder])
def test_candidates_of_the_same_tokens_are_refused(make: Callable[..., Encoder]) -> None:
    """Two words that the tokenizer does not know: the message has both, and their tokens."""
    example = Example("the film [MASK]", (" splendid", " great", " dismal"), id="line 3")
    with pytest.raises(UsageError) as error:
        make().encode([example])
    assert str(error.value).startswith(
        "line 3: candidates ' splendid' and ' dismal' are the same tokens to this model, '<unk>', "
    )


def test_a_prompt_that_begins_with_bos_has_one() -> None:
    """As chat templates write it: the same rows and prompts as without."""
    encode = encoder()
    written = replace(FILM, prompt=f"<s>{FILM.prompt}")
    one, other = encode.encode([FILM]), encode.encode([written])
    np.testing.assert_array_equal(one.batch.input_ids, other.batch.input_ids)
    assert encode.prompt(FILM) == encode.prompt(written)
    assert encode.prompt(FILM).count(BOS) == 1


def test_a_padding_token_without_a_row_is_replaced() -> None:
    """Added to the tokenizer alone, it has no embedding; any other serves under the mask."""
    special = {"bos_id": None, "pad_id": 40, "mask_id": None, "adds_bos": False}
    model = {"special": special, "max_positions": None, "architecture": "causal-lm"}
    made = [encoder_for(words(TEXT), model, None, False, size) for size in (40, 41, None)]
    assert [encode.pad_id for encode in made] == [0, 40, 40]


def test_spaces_around_a_prompt() -> None:
    """Spaces at the end of a prompt belong to the option; a newline stays where it is."""
    tokenizer = letters()
    encode = Encoder(tokenizer, None, PAD, None, 32)
    spaced, lined = (encode.encode([Example(f"ab{gap}", ("c", "d"))]) for gap in (" ", "\n"))
    space, c = (tokenizer.token_to_id(token) for token in " c")
    assert spaced.batch.targets[0, :, 0].tolist() == [space, c]
    assert lined.batch.targets[0].tolist() == [[c, tokenizer.token_to_id("d")]]


def test_truncation_keeps_bos_and_option() -> None:
    """Too long a prompt loses its first words; the bos and the whole option stay."""
    encode = encoder(max_length=6)
    encoded = encode.encode([Example(FILM.prompt, (" a bad film", " great"))])
    assert decoded(encoded, encode, 0) == ["<s>", " It", " was", " a", " bad"]
    assert decoded(encoded, encode, 1) == ["<s>", " good", " .", " It", " was"]
    assert encoded.counts.tolist() == [[3, 1]]


def test_rows_stay_within_the_positions() -> None:
    """Rounding up to a multiple never goes beyond the model's positions."""
    assert encoder(max_length=7).encode([FILM]).batch.input_ids.shape == (1, 7)


@pytest.mark.parametrize(("make", "length"), [(encoder, 10), (masked_encoder, 11)])
def test_too_long_without_truncation(make: Callable[..., Encoder], length: int) -> None:
    """With truncation off a long prompt is an error that says how long it is."""
    example = Example(f"{FILM.prompt} [MASK]", (" great",), id="mine 3")
    with pytest.raises(UsageError) as error:
        make(6, truncate=False).encode([example])
    assert str(error.value) == (
        f"mine 3: {length} tokens do not fit the 6 positions of the model; "
        "shorten the prompt, or cut it with --truncate"
    )


def test_nothing_before_an_option() -> None:
    """An option needs a token before it: an empty prompt or a whole row of option is refused."""
    with pytest.raises(UsageError, match=r"nothing precedes candidate ' bad' \(1 tokens\)"):
        encoder(bos=None).encode([Example("", (" bad",), id="x")])
    with pytest.raises(UsageError, match=r"\(5 tokens\) in a row of at most 4"):
        encoder(max_length=4).encode([Example("It", (" a bad film so dull",))])


def test_gold_only() -> None:
    """Likelihood training encodes the gold continuation alone, whichever it is."""
    encode = encoder()
    encoded = encode.encode([FILM, Example("It was", (" fine", " a bad film"), 1)], gold_only=True)
    great, a = (encode.tokenizer.token_to_id(word) for word in (" great", " a"))
    assert encoded.batch.targets[:, 0, 0].tolist() == [great, a]
    assert encoded.gold.tolist() == [0, 0]
    assert encoded.counts.tolist() == [[1], [3]]


def test_masked_row() -> None:
    """A masked row is scored at its mask, inside the special tokens of the tokenizer."""
    encode = masked_encoder()
    encoded = encode.encode([Example("the film was [MASK] .", (" bad", " great"), 1)])
    assert decoded(encoded, encode, 0) == [
        "<s>",
        "the",
        " film",
        " was",
        "<unk>",
        "<mask>",
        " .",
        "</s>",
    ]
    assert encoded.batch.positions.tolist() == [[5]]
    assert encoded.batch.targets.tolist() == [
        [[encode.tokenizer.token_to_id(word) for word in (" bad", " great")]]
    ]


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        ("the film was good . It was[MASK]", ["<s>", " It", " was", "<mask>", "</s>"]),
        ("[MASK] the film was good . It was", ["<s>", "<mask>", " the", " film", "</s>"]),
    ],
)
def test_masked_truncation_keeps_the_mask(prompt: str, kept: list[str]) -> None:
    """A long masked row is cut on the left, unless the mask is there; its special tokens stay."""
    encode = masked_encoder(max_length=5)
    encoded = encode.encode([Example(prompt, (" bad",))])
    assert decoded(encoded, encode, 0) == kept
    assert encoded.batch.input_ids[0, encoded.batch.positions[0, 0]] == MASK
    assert encoded.batch.input_ids[0, -1] == END


def test_masked_errors() -> None:
    """A prompt without its one mask, and a label word of two tokens, are named."""
    with pytest.raises(UsageError, match=r"x: the prompt has 0 masks; write \[MASK\] exactly once"):
        masked_encoder().encode([Example("the film", (" bad",), id="x")])
    with pytest.raises(UsageError, match=r"x: label word ' so dull' is 2 tokens of this tokenizer"):
        masked_encoder().encode([Example("[MASK]", (" bad", " so dull"), id="x")])


def test_tokenizer_settings_are_not_used() -> None:
    """Padding and truncation stored with a tokenizer do not act, and stay for their owner."""
    tokenizer = words(TEXT)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    stored = Encoder(tokenizer, BOS, PAD, None, 32).encode([FILM])
    np.testing.assert_array_equal(stored.batch.input_ids, encoder().encode([FILM]).batch.input_ids)
    assert tokenizer.truncation is not None


def test_max_length_too_small() -> None:
    """A row that cannot hold anything is refused at once."""
    with pytest.raises(UsageError, match=r"max_length 3: a row needs at least 4 tokens"):
        encoder(max_length=3)
