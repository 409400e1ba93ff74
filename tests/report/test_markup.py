from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from components.report.markup import Markup, clean, element, join, trim


def test_only_markup_passes_unescaped() -> None:
    inner = element("b", "a < b & c")
    assert inner == "<b>a &lt; b &amp; c</b>"
    assert element("p", inner, "<i>") == "<p><b>a &lt; b &amp; c</b>&lt;i&gt;</p>"
    assert join([None, "<", Markup("<br/>")]) == "&lt;<br/>"


def test_attributes_are_quoted_and_named_as_html_names_them() -> None:
    made = element("a", "x", class_="n", aria_label='"><script>', hidden=True, title=None, x1=1.50)
    assert made == '<a class="n" aria-label="&quot;&gt;&lt;script&gt;" hidden="" x1="1.5">x</a>'


@given(st.text(), st.text())
def test_any_text_gives_well_formed_xml_and_survives(text: str, attribute: str) -> None:
    parsed = ElementTree.fromstring(element("p", text, title=attribute))
    assert (parsed.text or "") == clean(text)
    assert parsed.attrib["title"].split() == clean(attribute).split()


@given(st.floats(-1e6, 1e6))
def test_a_coordinate_has_no_needless_zeros(value: float) -> None:
    text = trim(value)
    assert abs(float(text) - value) <= 0.005 + 1e-9
    assert text != "-0" and not ("." in text and text.endswith(("0", ".")))
