"""Takes the README's picture: the page that `make look` wrote, in Chromium. Run it by `make picture`."""

import shutil
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

page, picture, place = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), sys.argv[3]
with tempfile.TemporaryDirectory() as profile:
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1280,1280"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as chrome:
        chrome.get(f"{page.as_uri()}#{place}")
        drawn = "return document.querySelector('canvas[data-drawn]') !== null"
        WebDriverWait(chrome, 20).until(lambda browser: browser.execute_script(drawn))
        chrome.execute_script("scrollTo(0, 0)")
        WebDriverWait(chrome, 20).until(lambda browser: browser.execute_script("return scrollY === 0"))
        picture.write_bytes(chrome.get_screenshot_as_png())
