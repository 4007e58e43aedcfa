"""The page in a real browser: no errors, every figure drawn, the right numbers; both themes and widths."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from report_sample import bare_report, compress_report, train_report

from slimkit.report.page import run_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>addEventListener("load", () => {
  const figures = {};
  for (const figure of document.querySelectorAll("figure")) {
    const seen = [...figure.querySelectorAll("svg")].filter((svg) => svg.getClientRects().length);
    const box = seen[0].getBoundingClientRect();
    const marks = figure.querySelectorAll("svg." + seen[0].classList[0] + " [data-tip]").length;
    figures[figure.id] = [seen.length, box.width, box.height, marks];
  }
  const mark = [...document.querySelectorAll("svg .hit")].find((hit) => hit.getClientRects().length);
  mark.scrollIntoView();
  const at = mark.getBoundingClientRect();
  const where = { bubbles: true, clientX: at.x + at.width / 2, clientY: at.y + at.height / 2 };
  const top = document.elementFromPoint(where.clientX, where.clientY);
  top.dispatchEvent(new PointerEvent("pointermove", where));
  const tip = document.getElementById("tip");
  const cut = [...document.querySelectorAll("svg text")].filter((text) => {
    const own = text.getBoundingClientRect();
    return own.width > 0 && (own.left < 0 || own.right > innerWidth);
  }).map((text) => text.textContent.trim());
  const result = {
    figures, cut, tip: tip.hidden ? null : tip.textContent,
    paper: getComputedStyle(document.body).backgroundColor,
    overflow: document.documentElement.scrollWidth - innerWidth,
    cells: [...document.querySelectorAll("[data-path]")].map(
      (cell) => [cell.dataset.path, cell.dataset.value, cell.firstChild.data]),
  };
  document.documentElement.dataset.probe = JSON.stringify(result);
});</script></body>"""


def open_page(text, folder, width, dark):
    """Open a page; give what the probe found and what the browser complained about."""
    (folder / "page.html").write_text(text.replace("</body>", PROBE))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},900",
        "--enable-logging=stderr",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        "--virtual-time-budget=3000",
        "--dump-dom",
        (folder / "page.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1])), re.findall(r"CONSOLE.*", done.stderr)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
def test_a_browser_shows_it(tmp_path, width, dark):
    report = train_report()
    seen, complaints = open_page(run_page(report), tmp_path, width, dark)
    assert complaints == []
    assert len(seen["figures"]) == 9
    for name, (visible, wide, high, marks) in seen["figures"].items():
        assert visible == 1, f"{name}: one drawing for this width"
        assert wide > 280 and high > 100 and marks > 0, name
    assert seen["overflow"] <= 0, "the page scrolls sideways"
    assert seen["tip"] == "conv1 (Conv2d): 16 → 8 channels, 50 % kept"
    assert seen["paper"] == ("rgb(19, 21, 23)" if dark else "rgb(253, 253, 252)")
    cells = {path: (float(value), text.strip()) for path, value, text in seen["cells"]}
    assert cells["before/params"] == (report.before.params, "77.8 k")
    assert cells["after/accuracy/test"] == (report.after.accuracy.test, f"{100 * report.after.accuracy.test:.2f} %")
    assert cells["proof/slim_vs_reloaded"] == (0.0, "0")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("made", [bare_report, compress_report, train_report])
def test_no_word_of_a_drawing_is_cut_off(tmp_path, made, width):
    assert open_page(run_page(made()), tmp_path, width, dark=False)[0]["cut"] == []
