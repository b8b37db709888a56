"""The console in headless Chromium."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

import teravec
from teravec.serving.deploy.program import Server
from teravec.serving.wire.security import Address, ServerSecurity
from tests.serving.conftest import QUERIES, Launch, addresses, url

LOCAL = Address("127.0.0.1", 0)
TOKEN = "a-token-of-tests-1234"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Debian's chromium and chromium-driver; `make chromium` installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--disable-background-networking",
        "--no-first-run",
        "--disable-sync",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--window-size=1150,1560",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    yield made
    made.quit()


@pytest.fixture
def page(browser: WebDriver, index: Path, serve: Launch) -> Iterator[Server]:
    """The console of a coordinator with two live servers and one that is not there."""
    servers = [serve(index, lists=lists) for lists in ("0:30", "30:60")]
    coordinator = serve(
        index,
        servers=addresses(servers) + ",127.0.0.1:9",
        http=LOCAL,
        vectors=str(index.parent / "x0.npy"),
    )
    with teravec.connect(url(coordinator)) as remote:
        for row in range(len(QUERIES)):
            remote.search(QUERIES[row : row + 1], 10, 16)
    browser.get(f"http://{coordinator.http_address}/")
    yield coordinator
    browser.get("about:blank")


def wait(browser: WebDriver, true: Callable[[WebDriver], object]) -> None:
    WebDriverWait(browser, 15, poll_frequency=0.1).until(true)


def text(browser: WebDriver, element: str) -> str:
    return browser.find_element(By.ID, element).text


def test_it_shows_index_servers_and_load(browser: WebDriver, page: Server) -> None:
    wait(browser, lambda b: text(b, "state") == "ready")
    wait(browser, lambda b: "6,000" in text(b, "index"))
    assert "sq8, 24 bytes a code" in text(browser, "index")
    wait(browser, lambda b: "p99" in text(b, "figures") and "queries/s" in text(b, "figures"))
    bars = browser.find_elements(By.CSS_SELECTOR, "#histogram .bar")
    assert len(bars) > 2
    assert max(bar.size["width"] for bar in bars) > 200
    rows = cells(browser, "#servers")
    assert [row[1].split(",")[0] for row in rows] == ["live", "live", "down"]
    assert rows[0][2] == "0:30"
    titles = browser.execute_script(
        "return [...document.querySelectorAll('#servers tr')].map(row => row.title);"
    )
    assert "no server answers" in titles[2]
    if folder := os.environ.get("TERAVEC_SCREENSHOTS"):
        with teravec.connect(url(page)) as remote:
            for number in range(400):  # some seconds of curves
                remote.search(QUERIES[: 1 + number // 50], 10, 16)
                time.sleep(0.02)
        ask(browser, "#17, 42", k=3)
        wait(browser, lambda b: "2 queries in" in text(b, "told"))
        browser.save_screenshot(str(Path(folder) / "console.png"))


def ask(browser: WebDriver, query: str, k: int) -> None:
    for element, value in (("query", query), ("k", str(k))):
        box = browser.find_element(By.ID, element)
        box.clear()
        box.send_keys(value)
    browser.find_element(By.CSS_SELECTOR, "#ask button").click()


def cells(browser: WebDriver, body: str) -> list[list[str]]:
    """Text of a table's cells, read at once: the page draws it anew while we look."""
    found: list[list[str]] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map("
        "row => [...row.cells].map(cell => cell.textContent));",
        f"{body} tr",
    )
    return found


def results(browser: WebDriver) -> list[list[str]]:
    return cells(browser, "#results tbody")


def test_it_searches_by_id_and_by_vector(browser: WebDriver, page: Server, index: Path) -> None:
    ask(browser, "#17 42", k=3)
    wait(browser, lambda b: "2 queries in" in text(b, "told"))
    found = results(browser)
    assert len(found) == 6
    assert [found[0][2], found[3][2]] == ["17", "42"]
    with teravec.open(index) as local:
        true = local.search(QUERIES[:2], 5, 16)[1]
    for query in (
        str(QUERIES[:2].tolist()),
        "\\n".join(" ".join(str(x) for x in row) for row in QUERIES[:2].tolist()),
    ):
        browser.execute_script(  # typing 48 numbers takes long
            f"document.getElementById('query').value = `{query}`;"
        )
        browser.find_element(By.ID, "k").clear()
        browser.find_element(By.ID, "k").send_keys("5")
        browser.find_element(By.CSS_SELECTOR, "#ask button").click()
        wait(browser, lambda b: len(results(b)) == 10)
        assert [int(row[2]) for row in results(browser)] == true.ravel().tolist()


def test_it_tells_errors_as_text(browser: WebDriver, page: Server) -> None:
    ask(browser, "1 2 3", k=5)
    wait(browser, lambda b: "invalid-argument" in text(b, "told"))
    assert "24" in text(browser, "told")
    ask(browser, "[[1, 2", k=5)
    wait(browser, lambda b: "JSON" in text(b, "told"))


def test_it_asks_for_the_token(
    browser: WebDriver, index: Path, serve: Launch, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    server = serve(index, http=LOCAL, security=ServerSecurity(token_file=tokens))
    browser.get(f"http://{server.http_address}/")
    assert not browser.find_elements(By.ID, "state")
    browser.get(f"http://user:{TOKEN}@{server.http_address}/")
    browser.get(f"http://{server.http_address}/")  # fetch() takes no address with a password
    wait(browser, lambda b: text(b, "state") == "ready")
    ask(browser, str(QUERIES[0].tolist()), k=2)
    wait(browser, lambda b: len(results(b)) == 2)


def test_it_filters_and_shows_columns(
    browser: WebDriver, with_columns: dict[str, Path], serve: Launch
) -> None:
    path = with_columns["one"]
    server = serve(path, http=LOCAL)
    browser.get(f"http://{server.http_address}/")
    wait(browser, lambda b: b.find_element(By.ID, "filter").is_displayed())
    labels = browser.find_elements(By.CSS_SELECTOR, "#columns label")
    assert [label.text.split()[0] for label in labels] == ["n", "price", "lang", "tags"]
    for name in ("lang", "tags"):
        browser.find_element(By.CSS_SELECTOR, f"#columns input[value={name}]").click()
    box = browser.find_element(By.ID, "filter")
    box.send_keys("n < 900 and 't1' in tags")
    ask(browser, str(QUERIES[0].tolist()), k=4)
    wait(browser, lambda b: len(results(b)) == 4)
    with teravec.open(path) as local:
        true = local.query(
            QUERIES[:1], 4, 16, filter="n < 900 and 't1' in tags", columns="lang,tags"
        ).to_pylist()
    assert [row[2] for row in results(browser)] == [str(row["id"]) for row in true]
    assert [row[4] for row in results(browser)] == [row["lang"] or "" for row in true]
    assert [row[5] for row in results(browser)] == [", ".join(row["tags"]) for row in true]
    heads = browser.find_elements(By.CSS_SELECTOR, "#results th")
    assert [head.text for head in heads] == ["query", "rank", "id", "distance", "lang", "tags"]
    if folder := os.environ.get("TERAVEC_SCREENSHOTS"):
        photograph(browser, Path(folder))
    box.clear()
    box.send_keys("lnag = 'en'")
    browser.find_element(By.CSS_SELECTOR, "#ask button").click()
    wait(browser, lambda b: "no column named 'lnag'" in text(b, "told"))
    assert "character 1" in text(browser, "told")
    assert "lang" in text(browser, "told")
    if folder:
        browser.save_screenshot(str(Path(folder) / "console-wrong.png"))


def photograph(browser: WebDriver, folder: Path) -> None:
    """Take pictures of the page: wide and narrow, light and dark."""
    size = browser.get_window_size()
    for width in (1400, 390):
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            metrics = {"width": width, "height": 1700, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.save_screenshot(str(folder / f"console-{width}-{scheme}.png"))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.set_window_size(size["width"], size["height"])
