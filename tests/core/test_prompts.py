"""Prompts: what is read from a model's config is what was written, and sentence-transformers understands it."""

from __future__ import annotations

from components.core.prompts import Prompts, wrap


def test_a_prompt_goes_before_the_text_or_around_it() -> None:
    assert wrap("", ["a"]) == ["a"]
    assert wrap("query: ", ["a {text}", "b"]) == ["query: a {text}", "query: b"]
    assert wrap("<{text}>", ["a", "{text}"]) == ["<a>", "<{text}>"]


def test_prompts_survive_the_config_of_sentence_transformers() -> None:
    for prompts in (
        Prompts(),
        Prompts(query="query: "),
        Prompts("query: ", "passage: ", "same: "),
        Prompts("Find: {text}\nAnswer:", "", "{text}!"),
    ):
        assert Prompts.of({"similarity_fn_name": "cosine"} | prompts.config()) == prompts
    assert Prompts("query: ", "passage: ").config() == {
        "prompts": {"query": "query: ", "document": "passage: ", "symmetric": ""}
    }
    assert Prompts("Find: {text}\nAnswer:").config()["prompts"]["query"] == "Find: "
    assert Prompts().config() == {"prompts": {}}


def test_published_models_name_their_prompts_in_several_ways() -> None:
    assert Prompts.of({"prompts": {"query": "q: ", "passage": "p: "}}) == Prompts("q: ", "p: ")
    assert Prompts.of({"prompts": {"query": None, "document": None, "corpus": "c: "}}) == Prompts(passage="c: ")
    assert Prompts.of({"prompts": {"query": "q: "}, "default_prompt_name": "query"}) == Prompts()
    assert Prompts.of({}) == Prompts()
