"""The chat page, used in a browser as its users do: with a model, and with answers that are made to break it.

  MOE_SERVE=build/release/bin/moe-serve MOE_PLAN=cria.plan python3 test/server/page/page.py
"""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

from scripted import Scripted
from webdriver import CONTROL, ENTER, ESCAPE, SHIFT, TAB, Browser

ANSWER = "document.querySelector('.assistant:last-child:not([aria-busy]) .note')?.innerText"
TEXT = "document.querySelector('.assistant:last-child .body')?.innerText"
FOCUS = "[document.activeElement].map(n => n.id || (n.matches('button, summary') ? n.innerText : n.localName))[0]"


class Served:
    """A moe-serve of the plan; `key` is one that it asks for."""

    def __init__(self, *options, key=None):
        if key:
            self.keys = tempfile.NamedTemporaryFile("w", suffix=".keys")  # that its owner alone may read
            self.keys.write(f"tester:{key}\n")
            self.keys.flush()
            options += ("--api-key-file", self.keys.name)
        self.process = subprocess.Popen([os.environ["MOE_SERVE"], os.environ["MOE_PLAN"], "--port", "0", "--drain-grace", "0",
                                         *options], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening at (http\S+)", line):
                self.url = found.group(1) + "/"
            if "model '" in line:
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def figure(self, name):
        with urllib.request.urlopen(self.url + "metrics") as answer:
            return sum(float(line.split()[-1]) for line in answer.read().decode().splitlines()
                       if line.startswith(name + "{") or line.startswith(name + " "))

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self.process.stderr.close()


def setUpModule():
    PageTest.browser = Browser()
    unittest.addModuleCleanup(PageTest.browser.close)


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.serve()
        cls.addClassCleanup(cls.server.close)

    def setUp(self):
        self.expected = None  # what the console may say
        self.open(self.server)

    def tearDown(self):
        self.browser.run("sessionStorage.clear(); localStorage.clear()")
        for message in self.browser.log():
            if not (self.expected and re.search(self.expected, message)):
                self.fail("the browser's console says: " + message)

    def open(self, server):
        """A page of a tab without a past."""
        self.browser.open(server.url)
        self.browser.run("sessionStorage.clear(); localStorage.clear()")
        self.browser.open(server.url)
        self.browser.wait("document.querySelector('#model').options.length || document.querySelector('.error')")

    def say(self, text):
        self.browser.type("#prompt", text + ENTER)
        return self.browser.wait(ANSWER)


class WithModel(PageTest):
    @staticmethod
    def serve():
        return Served()

    def use(self, **settings):
        for name, value in settings.items():
            self.browser.set("#" + name, value)

    def test_answers(self):
        note = self.say("In the beginning")
        self.assertRegex(note, r"^\d+ tokens · [\d.]+ tokens/s · first after \d+ ms.*\n?Copy\n?Again")
        self.assertTrue(self.browser.run("return " + TEXT))
        self.assertEqual(self.browser.run("return document.querySelector('.user .body').innerText"), "In the beginning")
        self.assertEqual(self.browser.run("return document.querySelector('#prompt').value"), "")
        name = pathlib.Path(os.environ["MOE_PLAN"]).stem
        self.assertEqual(self.browser.run("return [...document.querySelector('#model').options].map(o => o.value)"), [name])
        self.assertEqual(self.browser.run("return document.querySelector('.assistant .name').innerText"), name)
        self.say("And what then? " * 10)
        self.say("And after that?")
        self.assertIn("prompt tokens cached", self.browser.run("return " + ANSWER))

    def test_text_streams_in(self):
        self.browser.run("""window.lengths = [];
            new MutationObserver(() => {
              const length = document.querySelector('.assistant .body')?.textContent.length;
              if (length && length !== lengths.at(-1)) lengths.push(length);
            }).observe(document.querySelector('#messages'), {childList: true, subtree: true, characterData: true});""")
        self.use(mode="text", max_tokens="400", temperature="1", seed=str(self.seed_of_a_long_text()))
        self.assertIn("cut at max tokens", self.say("In the beginning"))
        lengths = self.browser.run("return lengths")
        self.assertGreater(len(lengths), 2)
        self.assertEqual(lengths, sorted(lengths))

    def seed_of_a_long_text(self):
        for seed in range(100):
            request = urllib.request.Request(self.server.url + "v1/completions", headers={"Content-Type": "application/json"}, data=json.dumps(
                {"prompt": "In the beginning", "max_tokens": 900, "temperature": 1, "seed": seed}).encode())
            with urllib.request.urlopen(request) as answer:
                if json.load(answer)["usage"]["completion_tokens"] > 400:
                    return seed
        self.fail("no text is long")

    def test_stop_reaches_the_server(self):
        self.use(mode="text", max_tokens="900", temperature="1", seed=self.seed_of_a_long_text())
        before = self.server.figure("vllm:generation_tokens_total")
        self.browser.run("""new MutationObserver((_, self) => {
              if (!document.querySelector('.assistant .body')?.textContent) return;
              self.disconnect();
              document.querySelector('#send').click();
            }).observe(document.querySelector('#messages'), {childList: true, subtree: true, characterData: true});""")
        self.assertIn("stopped", self.say("In the beginning"))
        until = time.monotonic() + 10
        while self.server.figure("vllm:num_requests_running"):
            self.assertLess(time.monotonic(), until, "the server goes on")
            time.sleep(0.01)
        self.assertLess(self.server.figure("vllm:generation_tokens_total") - before, 400)
        kept = self.browser.run("return " + TEXT)
        self.browser.reload()
        self.assertEqual(self.browser.wait(TEXT), kept)

    def test_again(self):
        self.use(mode="chat", max_tokens="12", temperature="1", seed="1")
        self.say("In the beginning")
        first = self.browser.run("return " + TEXT)
        self.use(seed="2")
        self.browser.click(".again")
        self.browser.wait(ANSWER)
        self.assertNotEqual(self.browser.run("return " + TEXT), first)
        self.use(seed="1")
        self.browser.click(".again")
        self.browser.wait(ANSWER)
        self.assertEqual(self.browser.run("return " + TEXT), first)
        self.assertEqual(self.browser.run("return document.querySelectorAll('.message').length"), 2)

    def test_settings_count(self):
        self.use(max_tokens="5")
        self.assertRegex(self.say("In the beginning"), "^5 tokens .*cut at max tokens")
        self.browser.reload()
        self.assertEqual(self.browser.wait("document.querySelector('#max_tokens').value"), "5")
        self.assertEqual(self.browser.run("return document.querySelectorAll('.message').length"), 2)
        self.expected = "400"
        self.browser.click("#fresh")
        self.use(temperature="7")
        self.browser.type("#prompt", "In the beginning" + ENTER)
        self.assertIn("temperature", self.browser.wait("document.querySelector('.error')?.innerText"))


class WithKey(PageTest):
    @staticmethod
    def serve():
        return Served(key="sk-right")

    def test_a_key_is_asked_for(self):
        self.expected = "401"
        self.assertIn("API key", self.browser.wait("document.querySelector('.error')?.innerText"))
        self.assertTrue(self.browser.run("return document.querySelector('#settings').open"))
        self.assertEqual(self.browser.run("return document.activeElement.id"), "key")
        self.browser.keys("x")
        self.browser.keys(TAB)
        self.browser.wait("document.querySelector('.error') && !document.querySelector('#model').options.length")
        self.browser.run("document.querySelector('#key').value = ''")
        self.browser.type("#key", "sk-right")
        self.browser.run("document.querySelector('#key').blur()")
        self.browser.wait("document.querySelector('#model').options.length && !document.querySelector('.error')")
        self.say("In the beginning")
        self.browser.set("#key", "sk-wrong")
        self.browser.wait("document.querySelector('.error')")
        self.browser.type("#prompt", "And then?" + ENTER)
        self.browser.wait("document.querySelector('.error') && !document.querySelector('[aria-busy]')")
        self.browser.set("#key", "sk-right")
        self.browser.wait("!document.querySelector('.error')")


class Going(unittest.TestCase):
    def test_a_server_that_is_gone(self):
        browser, server = PageTest.browser, Served()
        browser.open(server.url)
        browser.wait("document.querySelector('#model').options.length")
        server.close()
        browser.type("#prompt", "In the beginning" + ENTER)
        self.assertIn("does not answer", browser.wait("document.querySelector('.error')?.innerText"))
        self.assertEqual(browser.run("return document.querySelectorAll('.message').length"), 2)  # what was asked, the error
        self.assertTrue(any("ERR_CONNECTION" in message for message in browser.log()))

    def test_no_ui(self):
        server = Served("--no-ui")
        self.addCleanup(server.close)
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(server.url)
        refused.exception.close()
        self.assertEqual(refused.exception.code, 404)

    def test_the_policy(self):
        server = Served()
        self.addCleanup(server.close)
        with urllib.request.urlopen(server.url) as answer:
            from scripted import PAGE, policy
            self.assertEqual(answer.read(), PAGE)
            self.assertEqual(answer.headers["Content-Security-Policy"], policy())
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")


class WithScript(PageTest):
    @staticmethod
    def serve():
        return Scripted()

    def answer(self, text, size=4000):
        """Lets the model say a text, and returns the seconds that the page takes to show what has come."""
        self.server.pieces = [text[at:at + size] for at in range(0, len(text), size)] or [""]
        began = time.monotonic()
        self.say("Go")
        self.browser.run("return document.body.offsetHeight")
        return time.monotonic() - began

    def html(self):
        return self.browser.run("return document.querySelector('.assistant:last-child .body').innerHTML")

    def setUp(self):
        self.server.pieces, self.server.pause, self.server.ends = ["Yes."], 0, "stop"
        super().setUp()

    def test_enter_and_shift_enter(self):
        self.browser.type("#prompt", "one")
        self.browser.keys(SHIFT, ENTER)
        self.browser.type("#prompt", "two")
        self.assertEqual(self.browser.run("return document.querySelectorAll('.message').length"), 0)
        self.browser.keys(ENTER)
        self.browser.wait(ANSWER)
        self.assertEqual(self.server.asked["messages"], [{"role": "user", "content": "one\ntwo"}])
        self.browser.keys(ENTER)  # of nothing
        self.assertEqual(self.browser.run("return document.querySelectorAll('.message').length"), 2)

    def test_stops(self):
        for how in (lambda: self.browser.keys(ESCAPE), lambda: self.browser.click("#send"), lambda: self.browser.click("#fresh")):
            self.server.pieces, self.server.pause, self.server.stopped = ["word "] * 2000, 0.02, False
            self.browser.click("#fresh")
            self.browser.type("#prompt", "Go" + ENTER)
            self.browser.wait(TEXT)
            self.assertEqual(self.browser.run("return document.querySelector('#send').textContent"), "Stop")
            how()
            self.browser.wait("document.querySelector('#send').textContent === 'Send'")
            until = time.monotonic() + 10
            while not self.server.stopped:
                self.assertLess(time.monotonic(), until, "the connection goes on")
                time.sleep(0.01)
            if self.browser.run("return document.querySelectorAll('.message').length"):
                self.assertIn("stopped", self.browser.wait(ANSWER))
        # After "New chat" nothing of the answer that was running is left.
        self.server.pieces, self.server.pause = ["Yes."], 0
        self.say("One")
        self.browser.reload()
        self.assertEqual(self.browser.wait("document.querySelectorAll('.message').length"), 2)

    def test_what_is_asked(self):
        for name, value in {"system": "Be kind.", "temperature": "0.5", "top_p": "0.9", "max_tokens": "77", "seed": "5",
                            "model": "other"}.items():
            self.browser.set("#" + name, value)
        self.say("One")
        self.say("Two")
        self.assertEqual(self.server.asked, {
            "model": "other", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5, "top_p": 0.9,
            "max_tokens": 77, "seed": 5,
            "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "One"},
                         {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Two"}]})

    def test_theme(self):
        colour = "return getComputedStyle(document.body).backgroundColor"
        luminance = lambda: sum(map(int, re.findall(r"\d+", self.browser.run(colour))[:3]))
        self.addCleanup(self.browser.prefer, "light")
        shown = {}
        for scheme in ("light", "dark"):
            self.browser.prefer(scheme)
            shown[scheme] = luminance()
        self.assertGreater(shown["light"], 600)
        self.assertLess(shown["dark"], 150)
        seen = []
        for _ in range(3):  # where the system is dark: light, dark, system
            self.browser.click("#theme")
            seen.append((self.browser.run("return document.querySelector('#scheme').textContent"), luminance()))
        self.assertEqual(seen, [("light", shown["light"]), ("dark", shown["dark"]), ("system", shown["dark"])])
        self.browser.click("#theme")
        self.browser.reload()
        self.assertEqual(luminance(), shown["light"])

    def test_text_has_contrast(self):
        """WCAG AA: 4.5 to 1, in both themes."""
        self.say("Hello")
        self.addCleanup(self.browser.prefer, "light")
        for scheme in ("light", "dark"):
            self.browser.prefer(scheme)
            for selector in (".user .body", ".assistant .body", ".name", ".note span", ".link", "summary", "#send", "#theme"):
                ratio = self.browser.run("""
                    const rgb = text => text.match(/[\\d.]+/g).map(Number);
                    const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
                    let node = document.querySelector(arguments[0]);
                    const ink = light(rgb(getComputedStyle(node).color));
                    while (rgb(getComputedStyle(node).backgroundColor)[3] === 0) node = node.parentElement;
                    const paper = light(rgb(getComputedStyle(node).backgroundColor));
                    return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);""", selector)
                self.assertGreater(ratio, 4.5, f"{selector} in {scheme}")

    def test_keyboard_alone(self):
        self.say("Hello")
        self.browser.run("document.querySelector('#settings').open = true; document.activeElement.blur(); "
                         "document.body.tabIndex = -1; document.body.focus()")
        order = []
        for _ in range(40):
            self.browser.keys(TAB)
            name = self.browser.run("return " + FOCUS)
            if name in order or name == "body":
                break
            order.append(name)
            visible = self.browser.run("""const node = document.activeElement, row = node.closest('.row');
                const ring = style => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
                return node.matches(':focus-visible') && (ring(getComputedStyle(node)) || !!row &&
                    getComputedStyle(row).borderColor !== getComputedStyle(document.querySelector('header')).borderBottomColor)""")
            self.assertTrue(visible, f"one cannot see that {name} has the focus")
        self.assertEqual(order, ["model", "theme", "fresh", "main", "Copy", "Again", "prompt",
                                 "send", "Settings", "system", "mode", "max_tokens", "temperature", "top_p", "seed", "key"])
        unlabelled = self.browser.run("""return [...document.querySelectorAll('input, select, textarea, button')].filter(node =>
            !(node.labels?.length || node.ariaLabel || node.textContent.trim())).map(node => node.outerHTML)""")
        self.assertEqual(unlabelled, [])
        self.browser.run("document.querySelector('#prompt').focus()")
        self.browser.keys(CONTROL, SHIFT, "O")
        self.assertEqual(self.browser.wait("document.querySelectorAll('.message').length === 0 && " + FOCUS), "prompt")

    def test_fits_a_phone(self):
        self.browser.size(390, 844, mobile=True)
        self.addCleanup(self.browser.devtools, "Emulation.clearDeviceMetricsOverride")
        self.answer("`" + "code" * 200 + "`\n\n" + "w" * 600 + "\n\n|a|b|\n|-|-|\n|" + "x" * 300 + "|y|\n\n```\n" + "z" * 500 + "\n```\n")
        self.browser.run("document.querySelector('#settings').open = true")
        self.assertLessEqual(self.browser.run("return document.documentElement.scrollWidth"), 390)
        self.assertLessEqual(self.browser.run("return document.querySelector('main').scrollWidth"), 390)
        self.assertLessEqual(self.browser.run("return document.querySelector('footer').getBoundingClientRect().bottom"), 844)

    def test_nothing_of_an_answer_runs(self):
        attacks = ("<script>window.hit = 1</script>", "<img src=x onerror='window.hit = 1'>",
                   "<svg onload='window.hit = 1'>", "<iframe srcdoc='<script>parent.hit = 1</script>'></iframe>",
                   "[x](javascript:window.hit=1)", "[x](JaVaScRiPt:window.hit=1)", "[x](data:text/html,<script>1</script>)",
                   "[x](https://a\"onclick=\"window.hit=1)", "[<img src=x onerror=window.hit=1>](https://a.example)",
                   "![x](https://evil.example/leak.png)", "<style>* { display: none }</style>",
                   "```html'onload='x\n<script>window.hit = 1</script>\n```", "|<img src=x onerror=window.hit=1>|b|\n|-|-|\n|c|d|",
                   "# <script>window.hit = 1</script>", "> <img src=x onerror=window.hit=1>",
                   "https://a.example/'onmouseover='window.hit=1'")
        self.answer("\n\n".join(attacks), size=50)
        self.assertEqual(self.browser.run("""
            const body = document.querySelector('.assistant:last-child .body');
            for (const link of body.querySelectorAll('a'))
              if (!/^https?:$/.test(link.protocol) || !link.rel.includes('noopener')) return 'a link to ' + link.href;
            for (const node of body.querySelectorAll('*'))
              for (const {name} of node.attributes)
                if (!['class', 'dir', 'href', 'rel', 'target', 'align', 'start'].includes(name)) return 'an attribute ' + name;
            return body.querySelector('script, img, svg, iframe, style, object, embed, form, input')?.outerHTML ?? window.hit ?? null"""),
            None)
        shown = self.browser.run("return document.querySelector('.assistant:last-child .body').innerText")
        for text in ("<script>window.hit = 1</script>", "<svg onload='window.hit = 1'>", "[x](javascript:window.hit=1)", "<style>"):
            self.assertIn(text, shown)
        self.assertEqual(self.browser.run("return performance.getEntriesByType('resource').filter(r => !r.name.startsWith(location.origin)).map(r => r.name)"), [])

    def test_markdown(self):
        copied = '<button class="link">Copy</button>'
        for text, html in {
            "a **b *c* d** e": "<p><strong>b <em>c</em> d</strong></p>".replace("<p>", "<p>a ").replace("</p>", " e</p>"),
            "***both*** ~~no~~ _so_ snake_case_name 2 * 3 * 4": "<p><strong><em>both</em></strong> <s>no</s> <em>so</em> snake_case_name 2 * 3 * 4</p>",
            "`a` ``b`c`` `d": "<p><code>a</code> <code>b`c</code> `d</p>",
            "\\*not\\*": "<p>*not*</p>",
            "# One\ntext\n## Two": "<h2>One</h2><p>text</p><h3>Two</h3>",
            "- a\n  - b\n    - c\n- d": "<ul><li><p>a</p><ul><li><p>b</p><ul><li><p>c</p></li></ul></li></ul></li><li><p>d</p></li></ul>",
            "3. a\n\n   more\n\n4. b\n\nend": '<ol start="3"><li><p>a</p><p>more</p></li><li><p>b</p></li></ol><p>end</p>',
            "1. a\n   ```\n   x\n   ```\n2. b": f'<ol><li><p>a</p><div class="block"><div>{copied}</div><pre><code>x</code></pre></div></li><li><p>b</p></li></ol>',
            "```py\nif a < b:\n    **c**": f'<div class="block"><div>py{copied}</div><pre><code>if a &lt; b:\n    **c**</code></pre></div>',
            "~~~\n```\n~~~\nx": f'<div class="block"><div>{copied}</div><pre><code>```</code></pre></div><p>x</p>',
            "so:\n|a|b|\n|:-:|--:|\n|1|2|": '<p>so:</p><table><thead><tr><th align="center">a</th><th align="right">b</th></tr></thead>'
                                           '<tbody><tr><td align="center">1</td><td align="right">2</td></tr></tbody></table>',
            "> a\n> > b\n\n---": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><hr>",
            "see https://a.example/b_c. Yes": '<p>see <a href="https://a.example/b_c" rel="noopener noreferrer nofollow" target="_blank">https://a.example/b_c</a>. Yes</p>',
        }.items():
            with self.subTest(text):
                made = self.browser.run("const body = document.createElement('div'); markdown(body)(arguments[0]); return body.innerHTML", text)
                self.assertEqual(re.sub(r' dir="\w+"', "", made), html)

    def test_what_streams_ends_as_what_comes_at_once(self):
        text = ("# A\ntext **bold** and\n- one\n\n- two\n  1. x\n\n  2. y\n\nend\n|a|b|\n|-|-|\n|1|2|\n\n```c\nint x;\n\n\ny\n```\n"
                "> q\n> - r\n\n* * *\n\n\npara\n- a\n\n-\n\nlast `code` https://a.example/x\n1. a\n\n   b\n") * 3
        self.answer(text)
        at_once = self.html()
        for size in (1, 3, 7):
            self.server.pause = 0.0005
            self.answer(text, size)
            self.assertEqual(self.html(), at_once)

    def test_right_to_left(self):
        self.answer("مرحبا **بالعالم** abc\n\nHello\n\n- עברית")
        self.assertEqual(self.browser.run("return [...document.querySelectorAll('.assistant .body > *')].map(n => getComputedStyle(n).direction)"),
                         ["rtl", "ltr", "rtl"])

    def test_hostile_lengths(self):
        """100 KB of each take linear time: a fraction of a second, with room for other programs that run. What is quadratic takes minutes."""
        n = 100_000
        words = {"stars": "*" * n, "brackets": "[" * n, "backticks": "`" * n, "underscores": "_" * n, "tildes": "~" * n,
                 "quotes": ">" * n, "hashes": "#" * n, "pipes": "|" * n, "spaces": "a|b\n" + " " * n, "dashes": "-" * n,
                 "open stars": "**a " * (n // 4), "open emphasis": "*a " * (n // 3), "stars between": "a**" * (n // 3),
                 "runs of backticks": " ".join("`" * (1 + i % 9) + "a" for i in range(n // 7)), "open links": "[a](https://" * (n // 12),
                 "brackets in turn": "[]" * (n // 2), "addresses": "https://" + "." * n, "escapes": "\\" * n,
                 "nested list": "\n".join(" " * (2 * i) + "- x" for i in range(300)), "items": "- a\n" * (n // 40),
                 "blank items": "- a\n" + "\n" * n + "x", "lines of a list": "- a\n\n" * 2000, "fences": "```\n" * 2000, "one word": "x" * n,
                 "table": "|a|b|\n|-|-|\n" + "|1|2|\n" * 1000, "nested quotes": "> " * (n // 2)}
        for name, text in words.items():
            with self.subTest(name):
                seconds = self.browser.run("""const body = document.createElement('div'), update = markdown(body);
                    document.querySelector('#messages').append(body);
                    update(arguments[0].slice(0, arguments[0].length / 2));
                    const began = performance.now();
                    update(arguments[0]);
                    body.offsetHeight;
                    const took = performance.now() - began;
                    body.remove();
                    return took / 1000""", text)
                self.assertLess(seconds, 5)

    def test_a_long_answer(self):
        text = "".join(f"## Part {i}\n\nSome **text** with `code` in part {i}, and more of it to read.\n\n- one\n- two\n\n" for i in range(2200))
        self.assertGreater(len(text), 200_000)
        self.server.pause = 0.002
        self.answer(text, 200)
        self.assertEqual(self.browser.run("return document.querySelectorAll('.assistant h3').length"), 2200)
        self.browser.reload()
        self.assertEqual(self.browser.wait("document.querySelectorAll('.assistant h3').length"), 2200)

    def test_what_is_selected_stays_while_text_comes(self):
        self.server.pieces, self.server.pause = ["first paragraph\n\nsecond\n\nthird\n\n"] + ["more "] * 100, 0.01
        self.browser.type("#prompt", "Go" + ENTER)
        self.browser.wait("document.querySelectorAll('.assistant .body > p').length === 4")
        self.browser.run("getSelection().selectAllChildren(document.querySelector('.assistant .body > p'))")
        self.browser.wait(ANSWER)
        self.assertEqual(self.browser.run("return getSelection().toString()"), "first paragraph")

    def test_reading_back_is_not_disturbed(self):
        self.answer("line\n\n" * 100)
        self.server.pieces, self.server.pause = ["more\n\n"] * 60, 0.01
        self.browser.type("#prompt", "Go" + ENTER)
        self.browser.wait("document.querySelectorAll('.assistant').length === 2")
        self.browser.run("document.querySelector('main').scrollTop = 10")
        self.browser.wait(ANSWER)
        self.assertEqual(self.browser.run("return document.querySelector('main').scrollTop"), 10)

    def test_an_answer_that_is_cut(self):
        for ends, says in {"cut": "ended in the midst", "error": "the device has failed"}.items():
            with self.subTest(ends):
                self.server.ends, self.server.pieces = ends, ["Half "]
                self.browser.click("#fresh")
                self.browser.type("#prompt", "Go" + ENTER)
                self.assertIn(says, self.browser.wait("document.querySelector('.error')?.innerText"))
                self.assertEqual(self.browser.run("return document.querySelector('.assistant .body').innerText"), "Half")
                self.server.ends, self.server.pieces = "stop", ["Whole."]
                self.browser.click(".error .link")
                self.browser.wait(ANSWER)
                self.assertEqual(self.browser.run("return [...document.querySelectorAll('.message .body')].map(n => n.innerText)"),
                                 ["Go", "Whole."])

    def test_copies(self):
        self.browser.devtools("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        self.answer("Some **text**:\n```\ncode\n```")
        read = "return navigator.clipboard.readText()"
        self.browser.click(".note .link")
        self.browser.wait("document.querySelector('.note .link').innerText === 'Copied'")
        self.assertEqual(self.browser.run(read), "Some **text**:\n```\ncode\n```")
        self.browser.run("Object.defineProperty(navigator, 'clipboard', {value: undefined, configurable: true})")  # as over plain HTTP
        self.browser.click(".block .link")
        self.browser.wait("document.querySelector('.block .link').innerText === 'Copied'")
        self.browser.run("delete navigator.clipboard")
        self.assertEqual(self.browser.run(read), "code")


if __name__ == "__main__":
    unittest.main()
