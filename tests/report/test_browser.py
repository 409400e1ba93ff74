"""The page as a browser shows it, on a phone and on a laptop, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.report.evidence import Evidence, read_evidence
from components.report.picture import picture
from components.report.pipeline import page
from tests.fixtures.chromium import Chromium
from tests.report.test_pipeline import no_losses, no_scores, nothing_measured, one_measurement

PHONE, LAPTOP = 390, 1280
# Charts without area, and chart texts that leave their card or lie on each other in a row of bars.
FLAWS = """(() => {
  const flaws = [], box = one => one.getBoundingClientRect();
  for (const chart of document.querySelectorAll('svg.chart')) {
    const area = box(chart), card = box(chart.closest('.card'));
    if (!(area.width > 100 && area.height > 20)) flaws.push(chart.id + ' has no area');
    if (!chart.querySelector('rect,polyline,path')) flaws.push(chart.id + ' is empty');
    for (const text of chart.querySelectorAll('text')) {
      const place = box(text);
      if (place.left < card.left || place.right > card.right || place.top < card.top || place.bottom > card.bottom)
        flaws.push(chart.id + ' clips ' + text.textContent);
    }
    for (const row of chart.querySelectorAll('g')) {
      const [label, value] = row.querySelectorAll('text');
      if (box(label).right > box(value).left) flaws.push(chart.id + ' overlaps ' + label.textContent);
    }
    const ticks = [...chart.querySelectorAll('text.tick[text-anchor=middle]')].map(box);
    for (const one of ticks) for (const other of ticks)
      if (one !== other && one.top === other.top && one.left <= other.left && one.right > other.left)
        flaws.push(chart.id + ' has ticks on each other');
  }
  return flaws;
})()"""


def show(browser: Chromium, folder: Path, evidence: Evidence, width: int, dark: bool = False) -> str:
    path = folder / "report.html"
    path.write_bytes(page(evidence))
    browser.open(path.as_uri(), width, dark=dark)
    return path.as_uri()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, LAPTOP])
def test_every_figure_is_drawn_and_nothing_is_asked_for(
    browser: Chromium, evidence: Evidence, tmp_path: Path, width: int, dark: bool
) -> None:
    address = show(browser, tmp_path, evidence, width, dark)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.evaluate("document.querySelectorAll('svg.chart').length") == 13
    assert browser.evaluate(FLAWS) == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("getComputedStyle(document.documentElement).backgroundColor") == (
        "rgb(17, 19, 21)" if dark else "rgb(246, 247, 248)"
    )
    # a picture in a data: address is the icon of the page
    assert [one for one in browser.requests if not one.startswith("data:")] == [address]
    assert browser.console == []


def test_a_run_with_little_to_show_fits_a_phone(browser: Chromium, inputs: dict[str, str], tmp_path: Path) -> None:
    for change in (nothing_measured, no_losses, one_measurement, no_scores):
        change(inputs)
    show(browser, tmp_path, read_evidence(inputs), PHONE)
    assert browser.evaluate(FLAWS) == []
    assert browser.evaluate("document.documentElement.scrollWidth") == PHONE
    assert browser.console == []


def test_the_page_runs_no_script_and_loads_nothing_even_if_told_to(
    browser: Chromium, evidence: Evidence, tmp_path: Path
) -> None:
    show(browser, tmp_path, evidence, LAPTOP)
    refused = browser.evaluate("""new Promise(done => {
      const refused = [];
      document.addEventListener('securitypolicyviolation', event => {
        refused.push(event.effectiveDirective);
        if (refused.length === 2) done(refused.sort());
      });
      const script = document.createElement('script');
      script.textContent = 'window.ran = true';
      const image = document.createElement('img');
      image.src = 'http://127.0.0.1:9/x.png';
      document.body.append(script, image);
    })""")
    assert refused == ["img-src", "script-src-elem"]
    assert browser.evaluate("window.ran === undefined") is True


def test_the_picture_stands_alone(browser: Chromium, evidence: Evidence, tmp_path: Path) -> None:
    path = tmp_path / "result.svg"
    path.write_bytes(picture(evidence))
    browser.open(path.as_uri(), LAPTOP)
    outside = browser.evaluate(
        "(() => { const frame = document.querySelector('.backdrop').getBoundingClientRect();"
        "return [...document.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()])"
        ".filter(([, box]) => box.left < frame.left || box.right > frame.right || box.bottom > frame.bottom)"
        ".map(([text]) => text) })()"
    )
    assert outside == []
    assert browser.console == [] and browser.requests == [path.as_uri()]
