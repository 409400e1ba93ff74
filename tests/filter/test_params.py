from __future__ import annotations

from typing import Any

import pytest

from components.core.errors import UsageError
from components.core.settings import parse_section
from components.filter.params import FilterParams

ENTRY = {"name": "toxicity", "uri": "toxicity.skops", "sha256": "0" * 64, "label": "toxicity", "threshold": 0.5}


def parse(**values: Any) -> FilterParams:
    section = parse_section("filter", FilterParams, values, "params.yaml")
    assert isinstance(section, FilterParams)
    return section


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_character": 3}, "params.yaml: filter.min_character: unknown key; did you mean min_characters?"),
        ({"safety": ["toxicity"]}, "params.yaml: filter.safety.0: should be a mapping of keys"),
        ({"safety": [{**ENTRY, "treshold": 1}]}, "filter.safety.0.treshold: unknown key; did you mean threshold?"),
        ({"safety": [{k: ENTRY[k] for k in ENTRY if k != "sha256"}]}, "filter.safety.0.sha256: field required"),
        ({"quality": [{**ENTRY, "sha256": "abc"}]}, "filter.quality.0.sha256: string should match pattern"),
        ({"quality": [{**ENTRY, "threshold": 60}]}, "filter.quality.0.threshold: should be less than or equal to 1"),
        ({"quality": [{**ENTRY, "name": "Ad-Text"}]}, "filter.quality.0.name: string should match pattern"),
        ({"quality": [{**ENTRY, "side": "both"}]}, "filter.quality.0.side: should be 'either', 'text' or 'other'"),
        ({"safety": [ENTRY], "quality": [ENTRY]}, "two reasons are named 'toxicity'; give the classifier another name"),
        ({"quality": [{**ENTRY, "name": "fluency"}]}, "two reasons are named 'fluency'"),
        ({"blocked_domains": ["lists/ads.txt"]}, "filter.blocked_domains.0: should be a mapping of keys"),
        ({"blocked_domains": [{"uri": "lists/ads.txt"}]}, "filter.blocked_domains.0.sha256: field required"),
        ({"fluency": {"max_excess": "high"}}, "filter.fluency.max_excess: should be a valid number"),
        ({"languages": ["English"]}, "filter.languages.0: "),
        ({"languages": "en"}, "filter.languages: "),
        ({"min_characters": {"zh": 2}}, "filter.min_characters: needs a value for default"),
        ({"max_characters": {"default": 0}}, "filter.max_characters.default: should be greater than or equal to 1"),
        ({"max_url_share": {"zh": 0.3}}, "filter.max_url_share: needs a value for default"),
        ({"max_url_share": {"default": 0.5, "chinese": 0.3}}, "filter.max_url_share.chinese"),
        ({"max_symbol_share": 50}, "filter.max_symbol_share.default: should be less than or equal to 1, found 50"),
        ({"max_length_ratio": {"cosine": 9}}, "filter.max_length_ratio.cosine"),
        ({"max_contained_share": 0.8}, "filter.max_contained_share: should be a valid dictionary, found 0.8"),
        ({"near_duplicates": {"threshold": 1.5}}, "filter.near_duplicates.threshold: "),
        ({"near_duplicates": {"treshold": 0.9}}, "did you mean threshold?"),
        ({"contamination": {"exact": False, "near": 0.8}}, "near finds equal texts too"),
    ],
)
def test_a_wrong_parameter_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(**values)
    assert message in str(caught.value)


def test_a_number_holds_for_all_languages() -> None:
    assert parse(min_characters=5).min_characters == {"default": 5}
    assert parse(max_digit_share=0.3).max_digit_share == {"default": 0.3}
    assert parse(safety=[], quality=None or []).safety == ()
