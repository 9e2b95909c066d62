"""The page in a real browser: opened, sampled, compared, its levels moved, a plan fitted, everything taken along.

Needs Chromium (Debian: `apt-get install chromium`); `.ci/run` sees to it. RETROGRADE_BROWSER names another one, and
RETROGRADE_PICTURES a folder for screenshots to look at.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import retrograde as rg
from retrograde.studio.shelf import REFERENCE

BROWSER = os.environ.get("RETROGRADE_BROWSER") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
playwright = pytest.importorskip("playwright.sync_api", reason="the end-to-end test drives the browser by playwright")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here: apt-get install chromium, or RETROGRADE_BROWSER=..."
)

SERVER = """
from retrograde.cli import main
from retrograde.tune import tuner
tuner.EFFORTS["small"] = tuner.Effort(32, 8, 8, 16, 12, 4, 1, 6, 32, ("ddim",))
main(["studio", "digits", "--no-browser", "--port", "0"])
"""
BAR, UNLOADED = 3.0, 0.55
"""Seconds to the first sample of digits on two cores; what the sampling alone takes on them when nothing else runs."""

LONG = 60_000
"""Milliseconds that a job may take where other work keeps the machine busy."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("studio")
    rg.plan("heun", rg.load("digits8-flow"), nfe=4).save(made / "mine.json")
    return made


@pytest.fixture(scope="module")
def address(folder):
    """Start the command in a process of its own, and stop it as Ctrl-C does."""
    began = time.monotonic()
    server = subprocess.Popen([sys.executable, "-c", SERVER], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert line.startswith("studio: http://127.0.0.1:"), line
        print(f"the command listens after {time.monotonic() - began:.2f} s")
        yield line.split()[1]
        server.send_signal(signal.SIGINT)
        assert server.wait(20) is not None
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tools:
        arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        made = tools.chromium.launch(executable_path=BROWSER, args=arguments)
        yield made
        made.close()


@pytest.fixture(scope="module")
def visit(browser, address):
    """Open the page; what it asks of other hosts, and what goes wrong in it, is collected."""
    opened = []

    def open_page(**options):
        context = browser.new_context(**{"viewport": {"width": 1360, "height": 900}, "accept_downloads": True} | options)
        page = context.new_page()
        page.set_default_timeout(LONG)
        page.elsewhere, page.wrong = [], []
        page.on("request", lambda r: r.url.startswith((address, "blob:", "data:")) or page.elsewhere.append(r.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.goto(address)
        opened.append(context)
        return page

    yield open_page
    for context in opened:
        context.close()


@pytest.fixture(scope="module")
def page(visit):
    return visit()


def expect(locator):
    return playwright.expect(locator)


def done(page):
    """Wait until the newest run has ended, with its errors told."""
    expect(page.locator("#status")).to_contain_text("Done", timeout=LONG)
    assert page.locator("#problem").is_hidden(), page.locator("#problem").inner_text()


def picture(page, name):
    """Keep a screenshot to look at, where a folder is given."""
    if where := os.environ.get("RETROGRADE_PICTURES"):
        file = Path(where) / f"{name}.png"
        page.screenshot(path=file, full_page=True)
        with Image.open(file) as image:
            image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


def error_of(page, side):
    return float(page.locator(f".side.{side} .figures b").inner_text())


def dark_and_bright(page, card):
    """Whether a canvas holds a picture: its share of dark and of bright pixels."""
    return page.locator(f"{card} canvas").evaluate(
        """canvas => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let dark = 0, bright = 0, solid = 0;
            for (let i = 0; i < data.length; i += 4) {
                if (data[i + 3] < 250) continue;
                solid += 1; dark += data[i] < 60; bright += data[i] > 200;
            }
            return [dark / solid, bright / solid];
        }"""
    )


def taken(page, button):
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    return download.value


def slowness():
    """How many times as long as alone the sampling itself takes at the moment."""
    den = rg.load("digits")
    plan = rg.plan("dpmpp_2m", den, nfe=8)
    began = time.monotonic()
    rg.sample(den, plan, n=12)
    return max(1.0, (time.monotonic() - began) / UNLOADED)


@pytest.mark.slow  # the bar is for two cores of its own: beside another worker, browser and server share one
def test_the_first_sample_is_there_within_three_seconds(visit, record_property):
    """Measured from opening the page, the best of at most three; other work on the machine is told by `slowness`."""
    slowness()  # the first evaluations of a process are slower
    for _ in range(3):
        before = slowness()
        began = time.monotonic()
        page = visit()
        expect(page.locator(".side.a .figures")).to_contain_text("8 evaluations", timeout=LONG)
        seconds = time.monotonic() - began
        dark, bright = dark_and_bright(page, ".side.a")
        assert dark > 0.4
        assert bright > 0.05
        if "RETROGRADE_PICTURES" in os.environ:
            done(page)
            picture(page, "studio")
        assert not page.wrong
        page.context.close()  # and its job with it, which would slow what is measured next
        load = max(before, slowness())
        record_property("first_sample_seconds", seconds)
        record_property("load", load)
        print(f"first sample of digits after {seconds:.2f} s; the machine was {load:.2f} times as slow as alone")
        if seconds < BAR * load:
            return
    pytest.fail(f"the first sample took {seconds:.2f} s, the bar is {BAR} s, and the machine only {load:.2f} times slower")


def test_a_batch_forms_step_by_step(page):
    page.locator("#model").select_option("digits8-flow")
    expect(page.locator("#facts")).to_contain_text("8×8")
    done(page)
    step = page.get_by_role("slider", name="Step")
    expect(page.locator("#step-text")).to_have_text("8 of 8, the data")
    at_end = dark_and_bright(page, ".side.a")
    step.focus()
    page.keyboard.press("Home")
    expect(page.locator("#step-text")).to_contain_text("1 of 8, σ")
    assert dark_and_bright(page, ".side.a") != at_end
    expect(page.locator("#table tr.now")).to_have_count(1)
    page.get_by_role("button", name="Watch it form").click()
    expect(page.locator("#step-text")).to_have_text("8 of 8, the data", timeout=LONG)
    assert dark_and_bright(page, ".side.a") == at_end


def test_two_plans_are_compared_and_the_figures_are_the_librarys(page):
    page.get_by_role("combobox", name="Plan A", exact=True).select_option("recipe:unipc_3")
    page.get_by_label("Evaluations of plan B").fill("6")
    page.keyboard.press("Tab")
    done(page)
    den = rg.load("digits8-flow")
    a = rg.sample(den, rg.plan("unipc_3", den, nfe=8), n=12)
    b = rg.sample(den, rg.plan("ddim", den, nfe=6), n=12)
    truth = rg.sample(den, rg.plan(REFERENCE[0], den, nfe=REFERENCE[1]), n=12)
    assert float(page.locator(".apart .figures b").inner_text()) == pytest.approx(
        float((a - b).square().mean().sqrt()), rel=0.01
    )
    for side, samples in (("a", a), ("b", b)):
        assert error_of(page, side) == pytest.approx(float((samples - truth).square().mean().sqrt()), rel=0.01)
    page.locator(".apart canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".apart .figures .item")).to_contain_text("Item 1:")


def test_a_level_is_moved_by_keyboard_and_by_hand(page):
    before = error_of(page, "a")
    level = page.get_by_role("slider", name="Level 4 of 8 of plan A")
    sigma = float(level.get_attribute("aria-valuenow"))
    level.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text("Levels moved by hand").first).to_be_visible()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    moved = float(level.get_attribute("aria-valuenow"))
    assert moved == pytest.approx(sigma / 1.08**4, rel=1e-6)
    expect(page.locator(".side.a .figures b")).not_to_have_text(f"{before}", timeout=LONG)
    done(page)
    expect(page.locator("#trails")).to_contain_text("Error of A: began at")
    # what the page shows is what the library computes at these levels
    den = rg.load("digits8-flow")
    times = list(rg.plan("unipc_3", den, nfe=8).times)
    times[3] = den.path.time_of_sigma(moved)
    samples = rg.sample(den, rg.plan("unipc_3", den, grid=times), n=12)
    truth = rg.sample(den, rg.plan(REFERENCE[0], den, nfe=REFERENCE[1]), n=12)
    error = float((samples - truth).square().mean().sqrt())
    expect(page.locator(".side.a .figures b")).to_have_text(f"{error:.3g}", timeout=LONG)
    # a drag with the mouse, as far as the next level lets it
    box = level.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for k in range(1, 9):
        page.mouse.move(x + 100 * k, y)
    page.mouse.up()
    following = float(page.get_by_role("slider", name="Level 5 of 8 of plan A").get_attribute("aria-valuenow"))
    assert float(level.get_attribute("aria-valuenow")) == pytest.approx(1.02 * following, rel=1e-3)
    done(page)
    # one level more, one fewer
    page.get_by_role("slider", name="Level 2 of 8 of plan A").focus()
    page.keyboard.press("Insert")
    expect(page.get_by_role("slider", name="Level 3 of 9 of plan A")).to_be_focused()
    page.keyboard.press("Delete")
    expect(page.get_by_role("slider", name="Level 3 of 8 of plan A")).to_be_focused()
    page.get_by_role("button", name="Back to the best").click()
    done(page)
    page.get_by_role("button", name="Put them back").click()
    expect(page.locator(".side.a .figures b")).to_have_text(f"{before}", timeout=LONG)
    done(page)


def test_a_saved_plan_is_picked_and_its_table_inspected(page):
    page.get_by_role("combobox", name="Plan B", exact=True).select_option("plan:file:mine.json")
    done(page)
    page.get_by_role("radio", name="B", exact=True).check(force=True)
    expect(page.locator("#table-about")).to_contain_text("heun@1, 4 evaluations")
    expect(page.locator("#table tbody tr")).to_have_count(len(rg.plan("heun", rg.load("digits8-flow"), nfe=4)))
    expect(page.locator("#table th").first).to_have_attribute("title", "number of the step")


def test_a_fit_shows_progress_can_be_stopped_and_becomes_plan_b(page):
    page.locator("#fit-effort").select_option("minutes")
    page.get_by_role("button", name="Fit", exact=True).click()
    expect(page.locator("#status")).to_contain_text("Fitting: ", timeout=LONG)
    expect(page.locator("#progress")).to_be_visible()
    page.locator("#seed").fill("5")  # meanwhile nothing else runs, and the page says what does
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#problem")).to_contain_text("one job at a time")
    page.get_by_role("button", name="Stop the fit").click()
    expect(page.locator("#status")).to_have_text("Stopped", timeout=LONG)
    page.locator("#fit-effort").select_option("small")
    page.locator("#fit-nfe").fill("2")
    page.get_by_role("button", name="Fit", exact=True).click()
    expect(page.locator("#fit-report")).to_contain_text("Best published: ddim", timeout=LONG)
    expect(page.get_by_role("combobox", name="Plan B", exact=True)).to_have_value("plan:made:1")
    done(page)
    picture(page, "studio_fitted")


def test_everything_is_taken_along_and_the_lines_run(page, tmp_path, monkeypatch, capsys):
    expect(page.locator("#lines")).to_contain_text("rg.Plan.load", timeout=LONG)
    download = taken(page, "Picture")
    download.save_as(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert image.format == "PNG"
        assert image.width > 900
    download = taken(page, "Plan A")
    download.save_as(tmp_path / "a.json")
    assert rg.Plan.load(tmp_path / "a.json") == rg.plan("unipc_3", rg.load("digits8-flow"), nfe=8)
    download = taken(page, "Plan B")
    download.save_as(tmp_path / download.suggested_filename)
    with zipfile.ZipFile(tmp_path / download.suggested_filename) as archive:
        archive.extractall(tmp_path)
    download = taken(page, "Save")
    download.save_as(tmp_path / "studio.py")
    monkeypatch.chdir(tmp_path)
    exec(compile((tmp_path / "studio.py").read_text(encoding="utf-8"), "studio.py", "exec"), {})
    printed = capsys.readouterr().out
    assert float(printed.split("error of B: ")[1].split()[0]) == pytest.approx(error_of(page, "b"), rel=0.01)
    # and opened again, from the file
    page.locator("#files").set_input_files([tmp_path / "a.json"])
    done(page)
    expect(page.locator(".side.b .kind")).to_have_text("a.json")
    expect(page.locator(".apart .figures b")).to_have_text("0")


def test_a_mistake_is_answered_on_the_page_with_what_mends_it(page):
    page.locator("#condition").fill("12")
    page.keyboard.press("Tab")
    expect(page.get_by_role("alert")).to_contain_text("Mend: condition 0-9", timeout=LONG)
    page.locator("#condition").fill("0-9")
    page.keyboard.press("Tab")
    done(page)


def test_every_control_has_a_name_and_the_keyboard_reaches_it(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([type=file]), select, canvas, [tabindex='0'], progress")]
            .filter(e => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
            .map(e => e.outerHTML)"""
    )
    assert nameless == []
    page.locator("#model").focus()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.name")
        )
    assert {
        "n",
        "seed",
        "fresh",
        "source-A",
        "nfe-A",
        "two",
        "play",
        "step",
        "level a",
        "table",
        "fit-nfe",
        "fit-go",
    } <= reached


def test_a_narrow_dark_window_holds_everything(visit):
    page = visit(viewport={"width": 390, "height": 800}, color_scheme="dark")
    expect(page.locator(".apart .figures")).to_contain_text("rms apart", timeout=LONG)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(22, 20, 15)"
    picture(page, "studio_narrow")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground


def test_the_page_asked_nobody_else_and_nothing_went_wrong(page):
    assert page.elsewhere == []
    assert page.wrong == []
