"What several test files share."

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # two tests run at a time; before torch
import transfer_nbs  # noqa: F401  before torch, whose threads then wait without spinning
from bundles import copy, figures, inbox, saved, trained  # noqa: F401  fixtures


def pytest_collection_modifyitems(items):
    "Whatever opens a browser has the marker `browser`."
    for item in items:
        if {"browser", "chromium"} & set(item.fixturenames): item.add_marker("browser")


@pytest.fixture(scope="session")
def chromium():
    "Chromium or Chrome, as the system or playwright has it; None without one."
    try: from playwright.sync_api import sync_playwright
    except ImportError: return None
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program: return program
    with sync_playwright() as driver: return driver.chromium.executable_path if os.path.exists(driver.chromium.executable_path) else None


@pytest.fixture(scope="session")
def browser(chromium):
    "A browser; without one, the tests that need it are skipped."
    if not chromium: pytest.skip("no Chromium or Chrome is installed, or no playwright")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The site, built with warnings as errors."
    out = tmp_path_factory.mktemp("site") / "site"
    script = Path(__file__).resolve().parent.parent / "docs" / "make_site.py"
    done = subprocess.run([sys.executable, script, "--out", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="session")
def address(site):
    "The site on this machine, below the same path as on GitHub Pages, which answers with 404.html for what isn't there."
    class Pages(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_): pass
        def translate_path(self, path): return super().translate_path(path.removeprefix("/transfer_nbs"))
        def send_error(self, code, message=None, explain=None):
            self.error_message_format = (site / "404.html").read_text().replace("%", "%%")
            super().send_error(code, message, explain)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/transfer_nbs"
        server.shutdown()


@pytest.fixture
def tab(browser):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], color_scheme="light")
    yield context.new_page()
    context.close()
