"""Prompts: what a model was trained to see before a text, by the side that the text stands on.

A prompt goes before the text, or is a template that names the text's place: ``"Find: {text}"``. sentence-transformers
knows prompts of the first kind only, so templates with something behind the text stand beside them in its config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PLACE = "{text}"  # where a template has the text
# sentence-transformers' names of the passages' prompt, in the order in which it looks for them.
PASSAGE_NAMES = ("document", "passage", "corpus")
TEMPLATES = "templates"


def wrap(prompt: str, texts: Sequence[str]) -> list[str]:
    """``texts`` with a prompt before them, or inside a template."""
    if not prompt:
        return list(texts)
    before, here, after = prompt.partition(PLACE)
    return [f"{before}{text}{after}" for text in texts] if here else [prompt + text for text in texts]


@dataclass(frozen=True)
class Prompts:
    """The prompts of queries, passages, and texts that are compared with their like."""

    query: str = ""
    passage: str = ""
    symmetric: str = ""

    def any(self) -> bool:
        """Whether there is a prompt at all."""
        return bool(self.query or self.passage or self.symmetric)

    def config(self) -> dict[str, Any]:
        """Keys of config_sentence_transformers.json that say so."""
        names = {"query": self.query, PASSAGE_NAMES[0]: self.passage, "symmetric": self.symmetric}
        prompts = {name: prompt.partition(PLACE)[0] for name, prompt in names.items()} if self.any() else {}
        behind = any(prompt.partition(PLACE)[2] for prompt in names.values())
        return {"prompts": prompts} | ({TEMPLATES: asdict(self)} if behind else {})

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Prompts:
        """The prompts that a config_sentence_transformers.json names.

        None where it has a default prompt: sentence-transformers then puts that one before every text.
        """
        if config.get("default_prompt_name"):
            return cls()
        if config.get(TEMPLATES):
            return cls(**config[TEMPLATES])
        prompts: Mapping[str, str | None] = config.get("prompts") or {}
        passage = next((prompts[name] for name in PASSAGE_NAMES if prompts.get(name)), None)
        return cls(prompts.get("query") or "", passage or "", prompts.get("symmetric") or "")
