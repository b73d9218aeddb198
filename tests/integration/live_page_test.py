"""The live page in a real browser, before the real three programs: what it shows is what the API says."""

import os
import tempfile
import unittest

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browser import Browser, Unavailable
from cluster import Cluster, ClusterTest, main, skip
from page_contrast import low_contrasts

PHONE, DESKTOP = (360, 780), (1280, 1000)
KINDS = ("exact", "blended", "recomputed", "computed")
# Seen by every later fetch of the page: what was asked and what came back.
RECORDER = """
window.recorded = [];
const before = window.fetch;
window.fetch = async (path, options) => {
  const response = await before(path, options);
  if (path === '/v1/chat/completions') {
    const copy = response.clone();
    copy.text().then((text) => window.recorded.push(text), () => window.recorded.push('aborted'));
  }
  return response;
};
"""


def setUpModule():
    global browser
    try:
        browser = Browser(*DESKTOP)
    except Unavailable as e:
        skip(e)


def tearDownModule():
    browser.close()


class Page:
    """What a person does with the page, and sees."""

    def __init__(self, address, path="/"):
        browser.resize(*DESKTOP)
        browser.prefer("light")
        browser.open(f"http://{address}{path}")
        browser.js(RECORDER)

    def running(self):
        return browser.find("#result").get_attribute("data-running") == "true"

    def runs(self):
        return [
            [cell.text for cell in row.find_elements(By.XPATH, "./*")]
            for row in browser.all("#runs tbody tr")
        ]

    def send(self):
        """By mouse; returns when the answer is whole and drawn."""
        runs = len(self.runs())
        browser.find("#send").click()
        browser.wait(lambda: not self.running(), "the answer's end")
        assert len(self.runs()) == runs + 1, browser.text("#error")

    def spans(self):
        """(kind, tokens, what it says of itself) of each."""
        return browser.js(
            "return [...document.querySelectorAll('#spans .kv')].map((s) =>"
            "[s.dataset.kind, Number(s.dataset.tokens), s.dataset.detail])"
        )

    def drawn_tokens(self):
        """By kind, as the spans add up."""
        sums = dict.fromkeys(KINDS, 0)
        for kind, tokens, _ in self.spans():
            sums[kind] += tokens
        return sums

    def tessera(self):
        """The tessera object of the last answer, as it stood in the first chunk that had one."""
        browser.wait(lambda: browser.js("return window.recorded.length"), "the recorded answer")
        return browser.js(
            "const events = window.recorded.at(-1).split('\\n\\n').filter((e) => e.startsWith('data: {'));"
            "return events.map((e) => JSON.parse(e.slice(6))).find((e) => e.tessera).tessera"
        )

    def focused(self):
        return browser.driver.switch_to.active_element

    def tab_to(self, css, most=60):
        """By the Tab key alone."""
        wanted = browser.find(css)
        for _ in range(most):
            if self.focused() == wanted:
                return wanted
            self.focused().send_keys(Keys.TAB)
        raise AssertionError(f"Tab does not come to {css}")

    def scrolls_sideways(self):
        return browser.js("return document.documentElement.scrollWidth > window.innerWidth")


class LivePage(ClusterTest):
    @classmethod
    def start(cls):
        cls.cache = cls.cluster.cache()
        cls.worker = cls.cluster.worker(cls.cache.address)
        cls.gateway = cls.cluster.gateway(cls.worker, cache=cls.cache.address)
        cls.cluster.client(cls.gateway)

    def setUp(self):
        self.page = Page(self.gateway.address)

    def tearDown(self):
        self.assertEqual(browser.complaints(), [])

    def test_1_keyboard_alone_sends_a_prompt(self):
        page = self.page
        browser.find("body").send_keys(Keys.TAB)
        self.assertEqual(page.focused().text, "Skip to the prompt")
        page.focused().send_keys(Keys.ENTER)
        question = page.tab_to("#question")
        question.send_keys(Keys.CONTROL, "a")
        question.send_keys("What is the pilot boat called?")
        page.tab_to("#max-tokens").send_keys(Keys.CONTROL, "a", Keys.NULL, "24")
        page.tab_to("#send").send_keys(Keys.ENTER)
        lengths = []
        answer = browser.find("#answer")
        while not lengths or page.running():
            lengths.append(len(answer.text))
        self.assertGreater(len(set(lengths)), 3, "the answer did not grow piece by piece")
        self.assertEqual(answer.get_attribute("aria-live"), "polite")
        self.assertEqual(page.focused(), browser.find("#send"), "sending took the focus away")
        [[_, order, state, mode, *_]] = page.runs()
        self.assertEqual((order, state, mode), ("A B C D", "cold", "blend"))

    def test_2_spans_are_what_the_answer_says(self):
        page = self.page
        for _ in range(2):  # the first one stores the chunks
            page.send()
        tessera = page.tessera()
        self.assertEqual(page.drawn_tokens(), {k: tessera[f"{k}_tokens"] for k in KINDS})
        self.assertEqual(len(browser.all("#spans .segment")), len(tessera["segments"]))
        self.assertIn("Pilots meet incoming vessels", browser.text("#spans"))

        # Passage D goes to the front, by its buttons and the keyboard.
        up = browser.find("[aria-label='Move up passage D']")
        for _ in range(3):
            up.send_keys(Keys.ENTER)
            self.assertEqual(page.focused(), up, "moving a passage lost the focus")
        self.assertEqual(browser.find("#say").get_attribute("textContent"), "Passage D is now 1 of 4")
        page.send()
        tessera, drawn = page.tessera(), page.drawn_tokens()
        self.assertEqual(drawn, {k: tessera[f"{k}_tokens"] for k in KINDS})
        self.assertGreater(drawn["blended"], 0)
        self.assertGreater(drawn["recomputed"], 0)
        details = [detail for kind, _, detail in page.spans() if kind == "recomputed"]
        self.assertTrue(details)
        for detail in details:
            self.assertRegex(detail, r"Passage [A-D], tokens? .* recomputed, from (worker memory|cache RAM)")
        order, state = page.runs()[0][1:3]
        self.assertEqual((order, state), ("D A B C", "reordered"))
        self.assertRegex(browser.text("#verdict"), r"as a full prefill is estimated|what a full prefill is estimated")
        self.assertEqual(len(browser.all("#timing .bar")), 3)

    def test_2_characters_of_several_tokens_are_whole(self):
        text = "港の灯台は九日ごとに点検される。🗼 Türme, naïve café."
        browser.js("document.getElementById('passage-A').value = arguments[0]", text)
        self.page.send()
        shown = browser.text("#spans")
        self.assertIn(text, shown)
        self.assertNotIn("\ufffd", shown)
        self.assertEqual(self.page.drawn_tokens(), {k: self.page.tessera()[f"{k}_tokens"] for k in KINDS})

    def test_3_arrow_keys_go_through_the_spans(self):
        page = self.page
        page.send()
        spans = browser.all("#spans .kv")
        page.tab_to("#spans .kv[tabindex='0']", most=80)
        self.assertEqual(page.focused(), spans[0])
        page.focused().send_keys(Keys.ARROW_RIGHT)
        self.assertEqual(page.focused(), spans[1])
        self.assertEqual(browser.text("#detail"), spans[1].get_attribute("data-detail"))
        page.focused().send_keys(Keys.END)
        self.assertEqual(page.focused(), spans[-1])
        page.focused().send_keys(Keys.TAB)
        self.assertNotIn("kv", page.focused().get_attribute("class") or "", "the spans trap Tab")

    def test_4_tab_comes_to_every_control_and_shows_where_it_is(self):
        page = self.page
        reached = []
        for _ in range(80):
            browser.driver.switch_to.active_element.send_keys(Keys.TAB)
            element = page.focused()
            if element.tag_name == "body":
                break
            outline = browser.js(
                "const s = getComputedStyle(arguments[0]); return [s.outlineStyle, parseFloat(s.outlineWidth)]", element
            )
            self.assertEqual(outline[0], "solid", element.get_attribute("outerHTML")[:100])
            self.assertGreaterEqual(outline[1], 2)
            reached.append(element)
        else:
            self.fail("Tab does not leave the page")
        controls = [e for e in browser.all("button, input, select, textarea, a[href]") if e.is_displayed()]
        self.assertEqual([e.get_attribute("outerHTML") for e in controls if e not in reached], [])
        unnamed = [e.get_attribute("outerHTML") for e in controls if not e.accessible_name]
        self.assertEqual(unnamed, [])

    def test_5_stop_stops_the_worker(self):
        page = self.page
        field = browser.find("#max-tokens")
        field.clear()
        field.send_keys("2000")
        browser.js("document.getElementById('question').value = 'Count from one on, without an end.'")
        browser.find("#send").click()
        browser.wait(lambda: len(browser.text("#answer")) > 5, "the first words")
        browser.find("#stop").click()
        browser.wait(lambda: not page.running(), "the stop", 5)
        self.assertIn("Stopped", browser.text("#answer"))
        self.gateway.await_line("status=499")  # it heard of it
        browser.wait(lambda: browser.text("#workers tbody td:nth-child(5)") == "0", "an idle worker", 10)

    def test_6_nothing_is_wider_than_a_phone(self):
        self.page.send()
        browser.resize(*PHONE, scale=2)
        self.assertFalse(self.page.scrolls_sideways())
        for width in (768, 1024, 1920):
            browser.resize(width, 900)
            self.assertFalse(self.page.scrolls_sideways(), width)

    def test_7_contrast_in_light_and_dark(self):
        self.page.send()
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            self.assertEqual(low_contrasts(browser), [], scheme)

    def test_8_the_cluster_is_live(self):
        browser.wait(lambda: "ready" in browser.text("#workers"), "the workers")
        self.assertIn("Cache RAM", browser.text("#tiers"))
        before = browser.text("#updated")
        browser.wait(lambda: browser.text("#updated") != before, "a second answer", 10)
        total = "return [...document.querySelectorAll('#hit-legend .tokens')].map((e) => e.textContent).join()"
        tokens = browser.js(total)
        self.page.send()
        browser.wait(lambda: browser.js(total) != tokens, "the tokens of the new prompt", 10)

    def test_9_empty_questions_are_not_sent(self):
        browser.find("#question").clear()
        browser.find("#send").click()
        self.assertIn("Write a question", browser.text("#error"))
        self.assertEqual(self.page.focused(), browser.find("#question"))


class Trouble(unittest.TestCase):
    """Each with a cluster of its own, which it breaks."""

    def setUp(self):
        self.cluster = Cluster()
        self.addCleanup(self.cluster.close)

    def test_a_wrong_key_is_said(self):
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
            keys.write("alice key-of-alice-0123456789\n")
            keys.flush()
            os.chmod(keys.name, 0o600)
            gateway = self.cluster.gateway(
                self.cluster.worker(""), cache="", api_keys_file=keys.name
            )
            gateway.await_line("event=worker_ready")
            page = Page(gateway.address)
            browser.wait(lambda: "API key" in browser.text("#state"), "the want of a key")
            key = browser.find("#key")
            key.send_keys("wrong", Keys.TAB)
            browser.wait(lambda: "key is wrong" in browser.text("#state"), "a wrong key")
            browser.find("#send").click()
            browser.wait(lambda: not page.running(), "the refusal")
            self.assertIn("The API key is not one of this server's", browser.text("#error"))
            key.clear()
            key.send_keys("key-of-alice-0123456789", Keys.TAB)
            browser.wait(lambda: "1 of 1 workers ready" in browser.text("#state"), "the workers")
            page.send()
            self.assertIn("no cache server", browser.text("#cache-note"))
            browser.driver.refresh()
            browser.wait(lambda: "1 of 1 workers ready" in browser.text("#state"), "the kept key")

    def test_b_the_dead_are_shown(self):
        cache = self.cluster.cache()
        worker = self.cluster.worker(cache.address)
        gateway = self.cluster.gateway(worker, cache=cache.address)
        self.cluster.client(gateway)
        page = Page(gateway.address)
        page.send()
        cache.stop()
        browser.wait(lambda: "does not answer" in browser.text("#cache-note"), "the dead cache")
        page.send()  # answered all the same
        worker.stop()
        browser.wait(lambda: "down" in browser.text("#workers"), "the dead worker")
        self.assertIn("No worker is ready", browser.text("#state"))
        browser.find("#send").click()
        browser.wait(lambda: browser.text("#error"), "the refusal")
        self.assertIn("No worker is ready", browser.text("#error"))
        gateway.stop()
        browser.wait(lambda: "does not answer" in browser.text("#cluster-error"), "the dead gateway")


if __name__ == "__main__":
    main()
