"What several test files share."

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def browser():
    "Chromium or Chrome, as the system or playwright has it; without one, the tests that need it are skipped."
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    with playwright.sync_playwright() as driver:
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if not program and not os.path.exists(driver.chromium.executable_path): pytest.skip("no Chromium or Chrome is installed")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
