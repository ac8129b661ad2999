"""Conversations: the model's own template, and loss on the assistant's tokens alone."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.tasks.test_encode import PAD
from zofx.errors import UsageError
from zofx.tasks.chat import chat_example
from zofx.tasks.encode import Encoder
from zofx.tasks.types import Markup

CHATML = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + eos_token + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MARKED = (
    "{{ bos_token }}{%- for message in messages %}\n    {%- if message['role'] == 'assistant' %}\n"
    "        {{- 'A: ' }}{% generation %}{{ message['content'] | trim }}{% endgeneration %}\n"
    "    {%- elif message['role'] == 'tool' %}\n        {{- raise_exception('no tools here') }}\n"
    "    {%- else %}\n        {{- 'U: ' + message['content'] + '\\n' }}\n    {%- endif %}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}{{- 'A: ' }}{%- endif %}"
)
FORGETS = (
    "{% for message in messages %}{{ message.role + ': ' }}{{ message.content if loop.last else "
    "'…' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "legs of an ant ?"},
    {"role": "assistant", "content": "six"},
    {"role": "user", "content": "of a cat ?"},
    {"role": "assistant", "content": "four legs"},
    {"role": "user", "content": "thanks"},
]


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_a_conversation_is_what_transformers_writes(template: str) -> None:
    """Prompt and completion together are the rendered text up to the last turn's end."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer().backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    whole = tokenizer.apply_chat_template(TALK[:5], tokenize=False)
    before = tokenizer.apply_chat_template(TALK[:4], tokenize=False, add_generation_prompt=True)
    made = chat_example({"messages": TALK}, Markup("<s>", "</s>", template))
    assert made.prompt == before
    assert made.prompt + made.candidates[0] == whole.rstrip()
    assert [made.prompt[a:b].removesuffix("</s>") for a, b in made.turns] == ["six"]
    assert made.references == ("four legs",)


def test_the_assistants_tokens_alone_are_scored() -> None:
    """Every turn of it, with the mark that ends it; no turn of a user."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    text = "<pad> <unk> <|user|> <|assistant|> </s> legs of an ant ? six a cat four thanks"
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(text.split())}, "<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(["<|user|>", "<|assistant|>", "</s>"])
    made = chat_example({"messages": TALK[1:]}, Markup("", "</s>", CHATML))
    encoder = Encoder(tokenizer, None, PAD, None, 1000)
    (row,) = encoder.rows(made)
    names = [tokenizer.id_to_token(t) for (t,) in row.targets]
    assert names == ["six", "</s>", "four", "legs", "</s>"]
    following = (*row.tokens[1:], row.targets[-1][0])
    assert [following[p] for p in row.positions] == [t for (t,) in row.targets]
    short = Encoder(tokenizer, None, PAD, None, 6).rows(made)[0]  # cut: the first turn is gone
    assert [tokenizer.id_to_token(t) for (t,) in short.targets] == ["four", "legs", "</s>"]
    assert short.cut == len(row.tokens) + 1 - 6


def test_other_names_of_the_same() -> None:
    """`conversations` of `from` and `value`, human and gpt."""
    rows = [{"from": "human", "value": "legs ?"}, {"from": "gpt", "value": "six"}]
    made = chat_example({"conversations": rows}, Markup("", "</s>", CHATML))
    assert (made.prompt, made.candidates) == ("<|user|>legs ?</s>\n<|assistant|>", ("six</s>",))


REFUSED: list[tuple[str | None, list[dict[str, Any]], str]] = [
    (None, TALK, "the artifact has no chat template"),
    ("{% if %}", TALK, "is no Jinja template"),
    ("{{ messages[0].content.nothing.more }}", TALK, "refuses the conversation"),
    (MARKED, [{"role": "tool", "content": "x"}, *TALK], "refuses the conversation: no tools here"),
    (FORGETS, TALK, "writes message 3 otherwise once others follow"),
    ("{{ ''.__class__.__mro__ }}", TALK, "refuses the conversation"),
]


@pytest.mark.parametrize(("template", "talk", "message"), REFUSED)
def test_what_a_template_cannot_write(
    template: str | None, talk: list[dict[str, Any]], message: str
) -> None:
    """No template, a broken one, one that refuses, one that rewrites, one that looks inside."""
    with pytest.raises(UsageError, match=message):
        chat_example({"messages": talk}, Markup("", "</s>", template))


def test_a_template_travels_with_the_artifact(tmp_path: Path) -> None:
    """Of a Hugging Face folder, into what the manifest says of the model."""
    from zofx.models.checkpoint import open_checkpoint

    plain, chat = tiny.tiny_llama(tmp_path / "plain"), tiny.tiny_llama(tmp_path / "chat")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(chat)
    assert "chat_template" not in open_checkpoint(str(plain)).description
    assert open_checkpoint(str(chat)).description["chat_template"] == CHATML
