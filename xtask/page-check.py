#!/usr/bin/env python3
"""Opens the page of a recording in a browser without a screen, and tries it out.

    python3 xtask/page-check.py NSTRACE RECORDING OUTDIR [MS]

NSTRACE is the program; RECORDING a file of `nstrace record`. The page and what it looks like
go into OUTDIR. It has to open within MS, 2000 if nothing is said. Needs Chromium and its driver (Debian: chromium, chromium-driver), and nothing
of Python but its own library. Prints a line for each failure, and exits with 1 if there is one.
"""

import base64
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# The driver is on this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "End": "\ue010", "Home": "\ue011", "Tab": "\ue004",
        "Down": "\ue015", "Left": "\ue012", "Right": "\ue014"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """Chromium, by the WebDriver protocol."""

    def __init__(self, profile):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        self.base = f"http://127.0.0.1:{self.port()}"
        args = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--hide-scrollbars", f"--user-data-dir={profile}"]
        wanted = {"goog:chromeOptions": {"args": args},
                  "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/session/{made['sessionId']}"

    def port(self):
        for line in self.driver.stdout:
            if "successfully on port" in line:
                return int(line.rsplit("port", 1)[1].strip().rstrip("."))
        raise SystemExit("page-check: chromedriver did not start")

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with OPENER.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"page-check: {path}: {json.load(error)['value']['message']}") from None

    def open(self, path):
        self.ask("POST", "/url", {"url": pathlib.Path(path).resolve().as_uri()})

    def open_nothing(self):
        self.ask("POST", "/url", {"url": "about:blank"})
        time.sleep(0.5)
        self.log("performance")
        self.log("browser")

    def run(self, script, *args):
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def settle(self):
        """Waits until what was asked for is drawn."""
        script = "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 120)"
        self.ask("POST", "/execute/async", {"script": script, "args": []})

    def element(self, css):
        found = self.ask("POST", "/element", {"using": "css selector", "value": css})
        return found[ELEMENT]

    def click(self, css):
        self.ask("POST", f"/element/{self.element(css)}/click", {})
        self.settle()

    def type(self, css, text):
        self.ask("POST", f"/element/{self.element(css)}/value", {"text": text})
        self.settle()

    def keys(self, *keys):
        """Presses keys where the focus is."""
        actions = []
        for key in keys:
            value = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})
        self.settle()

    def size(self, width, height):
        self.command("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
        self.settle()

    def command(self, name, params):
        return self.ask("POST", "/goog/cdp/execute", {"cmd": name, "params": params})

    def picture(self, path, whole=False):
        if whole:
            shot = self.command("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})["data"]
        else:
            shot = self.ask("GET", "/screenshot")
        pathlib.Path(path).write_bytes(base64.b64decode(shot))

    def log(self, kind):
        return self.ask("POST", "/se/log", {"type": kind})

    def close(self):
        with contextlib.suppress(SystemExit):
            self.ask("DELETE", "")
        self.driver.terminate()
        self.driver.wait()


class Check:
    """What was found."""

    def __init__(self):
        self.failures = []

    def that(self, is_so, what):
        if not is_so:
            self.failures.append(what)
            print(f"page-check: {what}")

    def same(self, found, expected, what):
        self.that(found == expected, f"{what}: {found!r}, not {expected!r}")


def main():
    if len(sys.argv) not in (4, 5):
        raise SystemExit(__doc__.strip())
    program, recording, out = sys.argv[1:4]
    within_ms = int(sys.argv[4]) if len(sys.argv) == 5 else 2000
    os.makedirs(out, exist_ok=True)
    page = pathlib.Path(out, "page.html")
    page.unlink(missing_ok=True)
    subprocess.run([program, "export", recording, "--format", "html", "-o", page], check=True)
    check = Check()
    check.within_ms = within_ms
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(profile)
        try:
            try_out(browser, check, page, out, program, recording)
        finally:
            browser.close()
    print(f"page-check: {len(check.failures)} failures; pictures in {out}")
    sys.exit(1 if check.failures else 0)


def try_out(browser, check, page, out, program, recording):
    browser.command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    browser.size(1280, 900)
    opens(browser, check, page)
    # A moment at which something is there.
    browser.run("page.timeline.setMoment(page.data.span * 0.9)")
    browser.settle()
    browser.picture(f"{out}/light.png", whole=True)
    summary(browser, check, program, recording)
    tree_at_end(browser, check, program, recording)
    has_operations = browser.run("return page.data.count") > 0
    time_line(browser, check)
    slider(browser, check)
    if has_operations:
        search(browser, check)
        sorting(browser, check)
        details(browser, check, out)
        failures(browser, check)
        lengths(browser, check, program, recording, out)
    themes(browser, check, out)
    narrow(browser, check, out)
    printing(browser, out)
    quiet(browser, check)


def opens(browser, check, page):
    # What the browser loaded for its own first page is not of this one.
    browser.open_nothing()
    began = time.monotonic()
    browser.open(page)
    for _ in range(1200):
        ready = browser.run("return document.documentElement.dataset.ready")
        if ready:
            break
        time.sleep(0.05)
    whole = (time.monotonic() - began) * 1000
    opening = browser.run("return document.getElementById('opening')?.textContent ?? null")
    if not ready:
        raise SystemExit(f"page-check: the page does not open: {opening}")
    operations = browser.run("return page.data.count")
    size = page.stat().st_size
    print(f"page-check: {operations} operations, {size / 1e6:.2f} MB, opened in {ready} ms ({whole:.0f} ms with the driver)")
    check.that(int(ready) < check.within_ms, f"it took {ready} ms to open")


def lines_of(program, *args):
    found = subprocess.run([program, *args], check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in found.splitlines()]


def summary(browser, check, program, recording):
    report = lines_of(program, "report", recording, "--json")[0]
    found = browser.run("return [page.data.operations, page.data.failed]")
    check.same(found, [report["operations"], report["failed"]], "operations and failures")
    host = browser.run("return document.getElementById('host').textContent")
    check.that(host != "", "there is no name of the host")
    check.same(browser.run("return document.querySelectorAll('img, iframe, object, script:not(body > script)').length"), 0,
               "elements that a name could have made")


def tree_at_end(browser, check, program, recording):
    lines = lines_of(program, "tree", "--from", recording, "--json")
    expected = {f"{ns['kind']}:{ns['inum']}": ns["tasks"] for ns in lines if ns["type"] == "namespace"}
    browser.click("#moment-end")
    shown = browser.run("return [...document.querySelectorAll('#tree-list [data-ns]')].map((own) => [own.dataset.ns, Number(own.dataset.tasks)])")
    found = dict(shown)
    check.same(set(found) - set(expected), set(), "namespaces in the page's tree only")
    check.same(set(expected) - set(found), set(), "namespaces that the page's tree lacks")
    differing = {ns: (found[ns], tasks) for ns, tasks in expected.items() if ns in found and found[ns] != tasks}
    check.same(differing, {}, "tasks in namespaces, in the page and in the tree")


def time_line(browser, check):
    browser.run("document.getElementById('lives').focus()")
    span = browser.run("return page.timeline.span")
    browser.keys("+", "+", "+")
    shown = browser.run("return page.timeline.to - page.timeline.from")
    check.that(abs(shown - span / 8) < span / 100, f"three times + shows {shown} of {span} ns")
    from_before = browser.run("return page.timeline.from")
    browser.keys("Right")
    check.that(browser.run("return page.timeline.from") > from_before, "Right does not move the time line")
    browser.keys("0")
    check.same(browser.run("return page.timeline.to - page.timeline.from"), span, "what 0 shows")
    # The wheel zooms once it has the focus.
    place = browser.run("document.getElementById('lives').scrollIntoView({block: 'center'}); const box = document.getElementById('lives').getBoundingClientRect(); return [box.x + box.width / 2, box.y + 40]")
    browser.command("Input.dispatchMouseEvent", {"type": "mouseWheel", "x": place[0], "y": place[1], "deltaX": 0, "deltaY": -240})
    browser.settle()
    check.that(browser.run("return page.timeline.to - page.timeline.from") < span, "the wheel does not zoom")
    browser.keys("0")


def slider(browser, check):
    browser.run("document.getElementById('slider').focus()")
    browser.keys("Home")
    check.same(browser.run("return page.timeline.moment"), 0, "the moment after Home")
    begin = browser.run("return document.getElementById('tree-count').textContent")
    browser.keys("End")
    end = browser.run("return [page.timeline.moment, page.data.span]")
    check.same(end[0], end[1], "the moment after End")
    browser.keys("Left")
    check.that(browser.run("return page.timeline.moment < page.data.span"), "Left does not move the slider")
    check.that(begin != "", "there is no tree at the beginning")
    browser.keys("End")


def search(browser, check):
    browser.run("document.getElementById('lives').focus()")
    browser.keys("/")
    check.same(browser.run("return document.activeElement.id"), "search", "where / goes")
    name = browser.run("return page.data.comms[page.data.comm[0]]")
    quoted = '"' + name.replace('"', "") + '"'
    browser.run("document.getElementById('search').value = arguments[0]; document.getElementById('search').dispatchEvent(new Event('input'))", f"comm:{quoted}")
    browser.settle()
    found = browser.run("return [page.table.rows.length, [...page.table.rows].every((i) => page.data.comms[page.data.comm[i]].toLowerCase().includes(arguments[0].toLowerCase()))]", name.replace('"', ""))
    check.that(found[0] > 0 and found[1], f"a search for {quoted} finds {found}")
    began = browser.run("const began = performance.now(); document.getElementById('search').value = 'op:setns -errno:EPERM took>1us'; page.table.filter(); page.table.draw(); return performance.now() - began")
    print(f"page-check: a search takes {began:.0f} ms")
    wrong = browser.run("return [...page.table.rows].filter((i) => page.data.ops[page.data.op[i]] !== 'setns' || page.data.took[i] <= 1000).length")
    check.same(wrong, 0, "operations that op:setns took>1us should not find")
    browser.run("document.getElementById('search').value = ''; page.table.filter()")


def sorting(browser, check):
    for key in browser.run("return COLUMNS.map((column) => column.key)"):
        browser.run("document.querySelector(`[data-key=${arguments[0]}] button`).click()", key)
        took = browser.run("const began = performance.now(); page.table.sort(); return performance.now() - began")
        check.that(took < 1000, f"it takes {took:.0f} ms to sort by {key}")
        sorted_by = browser.run("return document.querySelector(`[data-key=${arguments[0]}]`).getAttribute('aria-sort')", key)
        check.that(sorted_by != "none", f"it is not sorted by {key}")
    browser.click("[data-key=took] button")
    if browser.run("return page.table.sorted.down") is False:
        browser.click("[data-key=took] button")
    most = browser.run("return [page.data.took[page.table.rows[0]], page.data.took.reduce((a, b) => Math.max(a, b))]")
    check.same(most[0], most[1], "the slowest operation")
    browser.run("document.getElementById('grid').scrollTop = 1e9")
    browser.settle()
    last = browser.run("const rows = [...document.querySelectorAll('#grid .row')]; return [Number(rows.at(-1).dataset.at), page.table.rows.length - 1]")
    check.same(last[0], last[1], "the last row when it is scrolled to the end")
    browser.run("document.getElementById('grid').scrollTop = 0")


def details(browser, check, out):
    browser.run("document.getElementById('outcome-failed').click(); document.querySelector('[data-key=slowest] button').click(); document.getElementById('grid').focus()")
    browser.keys("Down", "Enter")
    check.that(browser.run("return !document.getElementById('details').hidden"), "Enter does not open details")
    check.same(browser.run("return document.activeElement.id"), "details-name", "what has the focus in the details")
    check.that(browser.run("return document.querySelectorAll('#details .fields dd').length") > 5, "there are no fields in the details")
    browser.run("document.getElementById('operations').scrollIntoView()")
    browser.settle()
    browser.picture(f"{out}/details.png")
    browser.keys("Escape")
    check.same(browser.run("return [document.getElementById('details').hidden, document.activeElement.id]"), [True, "grid"], "after Escape")
    browser.run("document.getElementById('outcome-all').click()")


def failures(browser, check):
    if not browser.run("return document.querySelectorAll('.failures button').length"):
        return
    expected = browser.run("return failureGroups(page.data)[0].total")
    browser.run("document.querySelector('.failures button').click()")
    browser.settle()
    check.same(browser.run("return page.table.rows.length"), expected, "operations of the most frequent failure")
    browser.run("document.querySelector('#failure-chip button').click()")
    check.same(browser.run("return page.table.rows.length"), browser.run("return page.data.count"), "operations without a filter")


def lengths(browser, check, program, recording, out):
    browser.run("document.getElementById('lengths').scrollIntoView()")
    browser.settle()
    browser.settle()
    found = browser.run("return [...document.querySelectorAll('#lengths tbody tr')].map((row) => [row.cells[0].textContent, Number(row.cells[1].textContent.replace(/\\D/g, ''))])")
    report = lines_of(program, "report", recording, "--json")
    expected = {line["name"]: line["count"] for line in report if line["type"] == "lengths" and line["of"] == "stage"}
    check.same(dict(found), expected, "stages and how often each was passed")
    exact = browser.run("return stageRows(page.data, () => true).filter((row) => row.lengths.length).map((row) => { const sorted = Float64Array.from(row.lengths).sort(); return [row.name, percentile(sorted, 50), percentile(sorted, 99)]; })")
    rough = {line["name"]: line for line in report if line["type"] == "lengths" and line["of"] == "stage"}
    for name, p50, p99 in exact:
        for own, ns in [("p50_ns", p50), ("p99_ns", p99)]:
            check.that(abs(rough[name][own] - ns) <= ns * 0.011 + 1, f"{own} of {name}: {ns}, and {rough[name][own]} in the report")
    browser.picture(f"{out}/lengths.png")


def themes(browser, check, out):
    browser.run("scrollTo(0, 0)")
    background = "return getComputedStyle(document.documentElement).backgroundColor"
    light = browser.run(background)
    browser.command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    browser.settle()
    check.that(browser.run(background) != light, "it is not dark where dark is preferred")
    browser.picture(f"{out}/dark.png", whole=True)
    browser.click("#theme")
    check.same(browser.run(background), light, "the background after a click on the theme")


def narrow(browser, check, out):
    for width in (1280, 400):
        browser.size(width, 800)
        browser.settle()
        wide = browser.run("return document.documentElement.scrollWidth")
        check.that(wide <= width, f"at {width} px the page is {wide} px wide")
    browser.picture(f"{out}/narrow.png", whole=True)
    browser.size(1280, 900)


def printing(browser, out):
    pdf = browser.command("Page.printToPDF", {"landscape": True})["data"]
    pathlib.Path(out, "print.pdf").write_bytes(base64.b64decode(pdf))


def quiet(browser, check):
    for entry in browser.log("browser"):
        check.that(entry["level"] not in ("SEVERE", "WARNING"), f"console: {entry['message']}")
    for entry in browser.log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            check.that(url.startswith(("file:", "data:")), f"it asked for {url[:100]}")


if __name__ == "__main__":
    main()
