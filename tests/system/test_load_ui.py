"""The load test's pages in a real browser: Locust's web UI while a burst runs, and the report of a run.

What was seen is kept in bench/screenshots, to be looked at.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.cluster import RunningCluster
from tests.support import eventually
from tests.system.locusts import ROOT, RUN_TIMEOUT_S, Load, free_port, store_of
from tests.system.wire import call

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

SCREENSHOTS = ROOT / "bench" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PAGE_TIMEOUT_MS = 30_000
REPORT_TIMEOUT_S = 120

CHARTS = "() => [...document.querySelectorAll('canvas')].map(canvas => canvas.toDataURL()).join(' ')"
"""Every chart of the page as a picture; charts that move change it."""
CHARTS_COUNT = 3
"""Requests per second, response times, users."""
MOVES = 4


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium as the system has it, without a window."""
    from playwright.sync_api import sync_playwright

    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.fail("there is no Chromium: deploy/install-system-packages chromium", pytrace=False)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        # A container's root has no sandbox to give; the pages are our own.
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield running
        finally:
            running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose errors fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, reduced_motion="reduce")
    opened = context.new_page()
    opened.set_default_timeout(PAGE_TIMEOUT_MS)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    try:
        yield opened
    finally:
        context.close()
    assert not errors


def await_move(page: Page) -> None:
    """Return once the charts show something else than now."""
    page.wait_for_function(f"before => ({CHARTS})() !== before", arg=page.evaluate(CHARTS))


def test_a_burst_is_picked_and_started_in_the_web_ui_and_the_charts_move(
    cluster: RunningCluster, tmp_path: Path, page: Page
) -> None:
    """A person opens the UI, chooses Burst and one user class, lowers the peak, presses start, looks at the charts, stops."""
    load = Load(tmp_path, cluster.base_url)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with load.locust("ui", "--web-host=127.0.0.1", f"--web-port={port}", *load.said):
        eventually(lambda: "Starting web interface" in load.log(), RUN_TIMEOUT_S)
        eventually(lambda: _answers(url), RUN_TIMEOUT_S)
        page.goto(url)
        page.get_by_text("Start new load test").wait_for()
        for user in ("KeyedUsageUser", "MessageUser"):
            page.get_by_role("row", name=user).get_by_role("checkbox").uncheck()
        shapes = page.locator("select[name=shapeClass]")
        offered = shapes.locator("option").all_inner_texts()
        assert offered == ["Default", "AbLadder", "Burst", "RampTo16k", "Soak", "Step"]
        shapes.select_option("Burst")
        page.get_by_role("button", name="Custom parameters").click()
        page.locator("input[name=peak]").fill("800")
        page.locator("input[name=idleS]").fill("1")
        page.locator("input[name=bursts]").fill("20")
        page.screenshot(path=SCREENSHOTS / "web-ui-start.png", full_page=True)
        page.get_by_role("button", name="Start", exact=True).click()

        page.get_by_role("tab", name="Charts").click()
        for number in range(CHARTS_COUNT):
            page.locator("canvas").nth(number).wait_for()
        for _ in range(MOVES):
            await_move(page)
            # Locust's page asks for new figures every two seconds.
            page.wait_for_timeout(2_500)
        page.screenshot(path=SCREENSHOTS / "web-ui-charts.png", full_page=True)
        page.get_by_role("tab", name="Statistics").click()
        page.get_by_text("/api/usages").first.wait_for()
        page.screenshot(path=SCREENSHOTS / "web-ui-statistics.png", full_page=True)
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="New").wait_for()
        page.get_by_role("tab", name="Failures").click()
        page.screenshot(path=SCREENSHOTS / "web-ui-stopped.png", full_page=True)
    test = load.timeline["tests"][-1]
    assert test["shape"] == "Burst"
    assert test["phases"][0]["name"] == "idle 1"
    assert test["totals"]["offered"] > 800
    assert test["totals"]["failed"] == 0
    names = {name for second in load.timeline["seconds"].values() for name in second["requests"]}
    assert names == {"POST /api/usages"}
    load.reconciled(store_of(cluster))


def test_the_report_of_a_run_can_be_looked_at_and_printed(
    cluster: RunningCluster, tmp_path: Path, browser: Browser
) -> None:
    """By day, by night, on a narrow screen and on paper: everything is drawn, nothing runs out of the page."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest.run", "--headless", "--shape=burst", "--users=64", "--workers=0"),
            *("--peak=600", "--bursts=2", "--idle-s=2", "--burst-s=3"),
            *(f"--host={cluster.base_url}", f"--store={store_of(cluster)}", f"--out={tmp_path}"),
        ],
        cwd=ROOT,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=REPORT_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (report,) = tmp_path.rglob("report.html")
    for name, width in (("light", 1280), ("dark", 1280), ("narrow", 420)):
        context = browser.new_context(
            viewport={"width": width, "height": 1000}, color_scheme="dark" if name == "dark" else "light"
        )
        page = context.new_page()
        requests: list[str] = []
        page.on("request", partial(_note, requests))
        page.goto(report.as_uri())
        assert page.locator("svg").count() >= 4
        wide, window = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        page.screenshot(path=SCREENSHOTS / f"report-{name}.png", full_page=True)
        assert wide <= window, name
        assert requests == [report.as_uri()]
        if name == "light":
            assert page.pdf(path=SCREENSHOTS / "report.pdf", format="A4").startswith(b"%PDF")
        context.close()


def _note(seen: list[str], request: Request) -> None:
    seen.append(request.url)


def _answers(url: str) -> bool:
    try:
        return call(url, "GET", "/").status == 200
    except OSError:
        return False
