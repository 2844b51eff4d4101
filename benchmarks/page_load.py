"""What a page costs a browser: ``python benchmarks/page_load.py PAGE…``.

Opens each page in a fresh headless Chromium, which it steers by the DevTools protocol over two pipes, and prints
seconds of CPU of the page's main thread and of all threads of its process (so that other work on the machine does not
count), up to three moments: the page is loaded and painted; the plotting library is ready, which the page unpacks when
it is idle; the first case is opened and its figure drawn. Waiting time stands beside them: it depends on what else the
machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--disable-extensions", "--window-size=1400,1000")
PAINTED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
LIBRARY = "document.getElementById('plotting-library') ? page.plotting().then(() => 1) : 1"
OPENED = """(async () => {
  const details = document.querySelector('details.case');
  if (!details) return 0;
  details.open = true;
  details.scrollIntoView();
  const place = details.querySelector('[data-case]');
  while (place && place.dataset.drawn !== 'done') await new Promise((again) => setTimeout(again, 20));
  return 1;
})()"""


class Browser:
    """A Chromium that is asked in JSON, one message at a time."""

    def __init__(self, asked: int, told: int) -> None:
        self._asked, self._told = asked, told
        self._last = 0
        self._rest = b""
        self.events: list[str] = []

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Return the answer; what the browser says before it is kept as ``events``. Raises RuntimeError: it refuses."""
        self._last += 1
        question: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            question["sessionId"] = session
        os.write(self._asked, json.dumps(question).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._last:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']['message']}")
                return dict(said["result"])

    def wait_for(self, event: str) -> None:
        while event not in self.events:
            self._next()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._told, 1 << 16)
            if not more:
                raise RuntimeError("the browser has ended")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        said: dict[str, Any] = json.loads(message)
        if "method" in said:
            self.events.append(said["method"])
        return said


@contextmanager
def browser(program: str) -> Iterator[Browser]:
    """Start Chromium with a profile of its own; end it afterwards."""
    theirs_in, asked = os.pipe()
    told, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [program, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # the descriptors that the protocol wants
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(asked, told)
        finally:
            process.kill()
            process.wait()
            os.close(asked)
            os.close(told)


@dataclass(frozen=True)
class Moment:
    """CPU seconds since the page was asked for, of its main thread and of its process; waiting time; its elements."""

    main_s: float
    process_s: float
    wall_s: float
    nodes: int


def moments(program: str, page: Path) -> list[Moment | None]:
    """Return the three moments of a page; None where it has no such thing."""
    with browser(program) as chromium:
        target = chromium.ask("Target.createTarget", url="about:blank")["targetId"]
        session = chromium.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        chromium.ask("Page.enable", session)
        chromium.ask("Performance.enable", session, timeDomain="threadTicks")

        def evaluate(expression: str) -> Any:
            found = chromium.ask(
                "Runtime.evaluate", session, expression=expression, awaitPromise=True, returnByValue=True
            )
            if "exceptionDetails" in found:
                raise RuntimeError(f"{page}: {found['exceptionDetails']}")
            return found["result"].get("value")

        def cost() -> tuple[float, float, int]:
            told = chromium.ask("Performance.getMetrics", session)["metrics"]
            metrics = {each["name"]: each["value"] for each in told}
            processes = chromium.ask("SystemInfo.getProcessInfo")["processInfo"]
            renderers = sum(each["cpuTime"] for each in processes if each["type"] == "renderer")
            return metrics["TaskDuration"], renderers, int(metrics["Nodes"])

        main, process, _ = cost()
        began = time.perf_counter()

        def moment() -> Moment:
            now = cost()
            return Moment(now[0] - main, now[1] - process, time.perf_counter() - began, now[2])

        chromium.events.clear()
        chromium.ask("Page.navigate", session, url=page.absolute().as_uri())
        chromium.wait_for("Page.loadEventFired")
        evaluate(PAINTED)
        found: list[Moment | None] = [moment()]
        for expression in (LIBRARY, OPENED):
            done = evaluate(expression)
            evaluate(PAINTED)
            found.append(moment() if done else None)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    parser.add_argument("--times", type=int, default=3, help="open every page so often; the median counts")
    given = parser.parse_args()
    if given.chromium is None:
        raise SystemExit("no Chromium on this machine; --chromium names one")
    print("| page | MB | elements | loaded: main thread, process, wall s | library ready | a case drawn | load |")
    print("|---|---|---|---|---|---|---|")
    for page in given.pages:
        tries = [moments(given.chromium, page) for _ in range(given.times)]
        cells = []
        for at in zip(*tries, strict=True):
            known = sorted((each for each in at if each is not None), key=lambda each: each.main_s)
            one = known[len(known) // 2] if known else None
            cells.append(f"{one.main_s:.2f}, {one.process_s:.2f}, {one.wall_s:.1f}" if one else "–")
        nodes = max(each.nodes for each in tries[0] if each is not None)
        size = page.stat().st_size / 1e6
        print(f"| {page} | {size:.1f} | {nodes:,} | {' | '.join(cells)} | {os.getloadavg()[0]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
