#!/usr/bin/env python3
"""Looks at the status page with a real Chromium, in each state that an operator may find it in, and keeps a picture of each.

    status_page.py PROGRAMS NATS_SERVER FOLDER

PROGRAMS: where `watcher` and `replicator` are. What is not seen in time fails it.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

PROGRAMS, NATS_SERVER, PICTURES = sys.argv[1:]
WORK = PICTURES + "/work"
NODES = "abc"
TITLE = "document.querySelector('#verdict h2').textContent"
WELL = TITLE + ".startsWith('Every file is on every node')"


def free():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


DRIVER, BROKER, HTTP = free(), free(), {name: free() for name in NODES}
processes = {}


def start(name, *command):
    env = {key: value for key, value in os.environ.items() if key != "RUST_LOG"}
    log = open(f"{WORK}/{name}.log", "w")
    processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)


def kill(name):
    process = processes.pop(name)
    process.send_signal(signal.SIGKILL)
    process.wait()


def start_broker():
    start("broker", NATS_SERVER, "-js", "-sd", WORK + "/js", "-p", str(BROKER), "-a", "127.0.0.1")


def start_node(node):
    os.makedirs(f"{WORK}/{node}")
    for program, http in [("watcher", "off"), ("replicator", f"127.0.0.1:{HTTP[node]}")]:
        place = ["--root", f"{WORK}/{node}", "--state", f"{WORK}/{node}.state", "--node", node]
        start(node + program, f"{PROGRAMS}/{program}", "run", *place, "--nats-url", f"nats://127.0.0.1:{BROKER}", "--http", http)


def wait(what, condition, limit=40):
    """Until it holds; what it said last is the value."""
    end = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > end:
            raise SystemExit(f"not seen: {what}")
        time.sleep(0.1)
    print("seen:", what, flush=True)
    return value


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def drive(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{DRIVER}{path}", data, {"Content-Type": "application/json"}, method=method)
    return json.load(urllib.request.urlopen(request, timeout=60))["value"]


class Page:
    """A page in a Chromium of its own."""

    def __init__(self, url):
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu"]}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self.at = "/session/" + drive("POST", "/session", wanted)["sessionId"]
        drive("POST", self.at + "/url", {"url": url})

    def run(self, script, kind="sync"):
        return drive("POST", f"{self.at}/execute/{kind}", {"script": script, "args": []})

    def sees(self, what, expression, limit=40):
        try:
            wait(what, lambda: self.run("return " + expression), limit)
        except SystemExit as error:
            raise SystemExit(f"{error}: {self.run('return document.body.innerText')[:700]}") from None

    def emulate(self, command, **parameters):
        drive("POST", self.at + "/goog/cdp/execute", {"cmd": "Emulation." + command, "params": parameters})
        # It is laid out when a frame was drawn after that.
        self.run("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))", "async")

    def picture(self, name, width=900, dark=False):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.emulate("setEmulatedMedia", features=[scheme])
        screen = {"width": width, "deviceScaleFactor": 1, "mobile": False}
        self.emulate("setDeviceMetricsOverride", height=700, **screen)
        height = self.run("return document.documentElement.scrollHeight")
        self.emulate("setDeviceMetricsOverride", height=min(height, 1600), **screen)
        assert not self.run("return document.documentElement.scrollWidth > innerWidth"), f"{name} is too wide"
        with open(f"{PICTURES}/{name}.png", "wb") as out:
            out.write(base64.b64decode(drive("GET", self.at + "/screenshot")))

    def complaints(self):
        said = [line["message"] for line in drive("POST", self.at + "/se/log", {"type": "browser"})]
        return [line for line in said if "Failed to load" not in line and "ERR_" not in line]

    def close(self):
        drive("DELETE", self.at)


def write(name, content):
    with open(f"{WORK}/a/{name}", "wb") as out:
        out.write(content)


def look(page):
    for n in range(8):
        write(f"picture-{n}.jpg", os.urandom(40_000 * (n + 1)))
    page.sees("all well", WELL)

    evil = "<img src=x onerror=window.hit=1>.jpg"
    write(evil, b"x" * 900)
    page.sees("a file that comes, as text", f"[...document.querySelectorAll('#events bdi')].some(e => e.textContent == '{evil}')")
    assert page.run("return !window.hit && document.images.length === 0"), "a name became an element"
    page.sees("what came, in the plot", "document.querySelector('#hour .bars')?.getAttribute('d')")
    page.sees("all well", WELL)
    page.picture("all-well")
    page.picture("all-well-phone", 390, dark=True)

    os.symlink("nowhere", f"{WORK}/b/taken.png")
    write("taken.png", b"taken")
    page.sees("a parked event", "!document.querySelector('#parked').hidden", 90)
    page.sees("what it means", TITLE + " == 'Not every file is on every node'")
    page.picture("parked-events")
    page.picture("parked-phone", 390)
    os.unlink(f"{WORK}/b/taken.png")
    page.run("document.querySelector('button.retry').click()")
    page.sees("it is tried and gone", "document.querySelector('#parked').hidden")

    processes["creplicator"].send_signal(signal.SIGSTOP)
    for n in range(5):
        write(f"late-{n}.jpg", os.urandom(9000))
    page.sees("one behind", TITLE + " == 'Files are on their way'")
    page.picture("one-node-behind")
    page.sees("one down", "document.querySelector('#verdict').innerText.includes('down')")
    page.picture("one-node-down", dark=True)
    processes["creplicator"].send_signal(signal.SIGCONT)
    page.sees("all well again", WELL, 60)

    kill("broker")
    page.sees("the broker away", TITLE + " == 'The broker is away'")
    page.picture("broker-away")
    start_broker()
    page.sees("all well after that", WELL, 60)
    assert not page.complaints(), page.complaints()


def main():
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    page = None
    try:
        start("chromedriver", "chromedriver", f"--port={DRIVER}")
        start_broker()
        for node in NODES:
            start_node(node)
        wait("the driver", lambda: answers(f"http://127.0.0.1:{DRIVER}/status"))
        wait("the page", lambda: answers(f"http://127.0.0.1:{HTTP['b']}/"))
        page = Page(f"http://127.0.0.1:{HTTP['b']}/")
        look(page)
    finally:
        if page:
            page.close()
        for name in list(processes):
            kill(name)


main()
