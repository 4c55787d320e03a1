"What several test files share."

import os
import shutil

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
