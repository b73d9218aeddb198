"""A headless Chromium of Debian's packages, for tests of web pages."""

import os
import shutil

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PAGE_SECONDS = 60


class Unavailable(Exception):
    """No browser can start here; the text says why."""


class Browser:
    """One window. Its downloads, profile and cache go with it."""

    def __init__(self, width=1280, height=1000):
        browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not browser or not driver:
            raise Unavailable("chromium or chromium-driver is not installed: deploy/install.sh tests")
        options = Options()
        options.binary_location = browser
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in (
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--window-size={width},{height}",
        ):
            options.add_argument(flag)
        if os.getuid() == 0:
            options.add_argument("--no-sandbox")
        try:
            self.driver = webdriver.Chrome(options, Service(driver))
        except WebDriverException as e:
            raise Unavailable(f"Chromium does not start: {(e.msg or '').splitlines()[0]}") from e
        self.driver.set_script_timeout(PAGE_SECONDS)

    def close(self):
        self.driver.quit()

    def open(self, url):
        self.driver.get(url)

    def find(self, css):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css):
        """As it is shown: nothing for what is hidden."""
        return self.find(css).text

    def js(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def wait(self, condition, what, seconds=PAGE_SECONDS):
        """-> the condition's first value that is true; it is asked again and again."""
        return WebDriverWait(self.driver, seconds, 0.05).until(
            lambda _: condition(), f"waited {seconds} s for {what}"
        )

    def resize(self, width, height, scale=1):
        """As a phone does it: even narrower than a window may be."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600},
        )

    def prefer(self, scheme):
        """Light or dark, as the system would."""
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )

    def complaints(self):
        """Errors and warnings on the console since the last call."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]
