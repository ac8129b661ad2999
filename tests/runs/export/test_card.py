"""Model cards: front matter that hubs parse, intervals, and what rebuilds the weights."""

from dataclasses import replace
from typing import Any

from huggingface_hub import ModelCard

from zofx.ir.schema import Products
from zofx.runs.export.card import CHOSEN, INTEGERS, card
from zofx.runs.export.subject import Subject


def parsed(text: str) -> Any:
    return ModelCard(text)


def test_a_card_says_how_well_it_did_and_what_rebuilds_it(lora: Subject) -> None:
    """The step's accuracy with its interval and count, every setting, both hashes; no path."""
    assert lora.run is not None
    text = card(lora, "An export.", library_name="peft", base_model="a/b")
    made = parsed(text)
    assert made.data.library_name == "peft"
    assert made.data.base_model == "a/b"
    assert "zofx" in made.data.tags
    result = lora.run.evaluations()[4]
    assert result.accuracy is not None
    low, high = result.accuracy.interval
    line = f"| 4 | accuracy | {result.accuracy.value:.4f} | {low:.4f} to {high:.4f} | 9 |"
    assert line in text
    assert "| seed | 0 |" in text
    assert "| lr | 0.3 |" in text
    assert f"SHA-256 {lora.journal_hash}" in text
    assert f"SHA-256 {lora.manifest.hash}" in text
    assert (CHOSEN in text) is (lora.run.best() == 4)
    settings = text.partition("## Settings")[2].partition("## Made of")[0]
    assert str(lora.run.path.parent) not in settings


def test_a_card_says_what_differs(lora: Subject) -> None:
    """Rounded activations are said where there are some, and so is that nothing was trained."""
    assert INTEGERS not in card(lora, "An export.")
    rounded = replace(lora, manifest=replace(lora.manifest, products=Products.INTEGERS))
    assert INTEGERS in card(rounded, "An export.")
    assert "nothing was trained" in card(Subject.of(lora.folder), "An export.")
