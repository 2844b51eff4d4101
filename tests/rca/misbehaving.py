"""Methods that do what no method should, for the runner's tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np

from tasks.rca.method import Coverage, Evidence, Finding, MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView

_PAPER = Paper("none", "none", 2026)


def _define(name: str, packages: tuple[str, ...] = (), *, beyond: bool = False):
    return method(name=name, family="metric", needs=set(), paper=_PAPER, packages=packages, beyond=beyond)


@_define("test_sleeps")
def sleeps(view: CaseView, rng: np.random.Generator) -> Ranking:
    while True:
        time.sleep(1)


@_define("test_spins_with_child")
def spins_with_child(view: CaseView, rng: np.random.Generator) -> Ranking:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "rcarena-test-child"])
    while True:
        pass


@_define("test_waits")
def waits(view: CaseView, rng: np.random.Generator, *, wait_s: float = 1.5) -> Ranking:
    time.sleep(wait_s)
    return Ranking.of_order(view.services)


@_define("test_spins_in_a_child_of_its_own")
def spins_in_a_child_of_its_own(view: CaseView, rng: np.random.Generator) -> Ranking:
    """The child leaves the group and the session, and its parent ends at once; the method itself only waits."""
    spin = "import os\nif os.fork() == 0:\n os.setsid()\n while True: pass"
    subprocess.run([sys.executable, "-c", spin, "rcarena-test-child"], check=True)
    while True:
        time.sleep(1)


@_define("test_spins_in_threads")
def spins_in_threads(view: CaseView, rng: np.random.Generator) -> Ranking:
    """Work that Python's own clock of this thread does not see."""
    block = rng.random((800, 800))
    threads = [threading.Thread(target=lambda: [block @ block for _ in range(10**6)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    threads[0].join()
    return Ranking(())


@_define("test_grows")
def grows(view: CaseView, rng: np.random.Generator) -> Ranking:
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1) * 2**24))


@_define("test_one_huge_array")
def one_huge_array(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking.of_services({view.services[0]: float(np.ones(2**37).sum())})


@_define("test_segfaults")
def segfaults(view: CaseView, rng: np.random.Generator) -> Ranking:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("unreachable")


@_define("test_exits")
def exits(view: CaseView, rng: np.random.Generator) -> Ranking:
    sys.exit(3)


@_define("test_first_by_name", beyond=True)
def first_by_name(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking.of_order(sorted(view.services)[:1])


@_define("test_raises")
def raises(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking.of_services({"x": 1 / (len(view.services) - len(view.services))})


@_define("test_named_error")
def named_error(view: CaseView, rng: np.random.Generator) -> Ranking:
    raise MethodError("no such thing as a cause")


@_define("test_no_ranking")
def no_ranking(view: CaseView, rng: np.random.Generator) -> Ranking:
    return ["nginx-proxy"]  # type: ignore[return-value]  # not what a method may return


@_define("test_malformed")
def malformed(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking(("nginx-proxy", "ray-head"))  # type: ignore[arg-type]  # not what a method may return


@_define("test_stranger")
def stranger(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking.of_services({"moon": 1.0})


@_define("test_duplicates")
def duplicates(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking(((view.services[0], 2.0), (view.services[0], 1.0)))


@_define("test_duplicate_metrics")
def duplicate_metrics(view: CaseView, rng: np.random.Generator) -> Ranking:
    service = view.services[0]
    return Ranking(((service, 2.0),), ((service, "x", 2.0), (service, "x", 1.0)))


@_define("test_nan")
def nan(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking.of_services({view.services[0]: float("nan")})


@_define("test_finds_a_stranger")
def finds_a_stranger(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking((), findings=(Finding("moon", "cpu-stress", 0.5),))


@_define("test_finds_two")
def finds_two(view: CaseView, rng: np.random.Generator) -> Ranking:
    """The values are NumPy's: a pool lets none of its classes through."""
    first, second = view.services[:2]
    evidence = Evidence("cpu", f"{np.str_(second)} is\nbusy", "cores", np.float64(0.1), np.float32(4), None)
    findings = (
        Finding(np.str_(first), "unknown", np.float64(0.04), "victim", np.int64(7)),
        Finding(second, "cpu-stress", np.float64(0.01), evidence=(evidence,)),
    )
    coverage = Coverage((np.str_("CPU"), "spans\nof calls"), ("GPU clocks",))
    return Ranking(Ranking.of_order(view.services[:2]).services, findings=findings, coverage=coverage)


@_define("test_finds_by_name")
def finds_by_name(view: CaseView, rng: np.random.Generator) -> Ranking:
    """Its ranking is fair, its findings are not."""
    return Ranking((), findings=(Finding(min(view.services), "cpu-stress", 0.5),))


@_define("test_no_fault")
def no_fault(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking(Ranking.of_order(view.services).services, findings=())


@_define("test_silent")
def silent(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking(())


@_define("test_all_tied")
def all_tied(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking.of_services(dict.fromkeys(view.services, 1.0))


@_define("test_by_name")
def by_name(view: CaseView, rng: np.random.Generator) -> Ranking:
    """Unfair on purpose: the fairness tests must see it."""
    return Ranking.of_order(sorted(view.services))


@_define("test_spoils_the_view")
def spoils_the_view(view: CaseView, rng: np.random.Generator) -> Ranking:
    metrics = view.metrics
    metrics.iloc[:, :] = 0.0
    return Ranking.of_order(view.services)


@_define("test_chatters")
def chatters(view: CaseView, rng: np.random.Generator) -> Ranking:
    print("x" * 1_000_000)
    print("x" * 1_000_000, file=sys.stderr)
    return Ranking.of_order(view.services)


@_define("test_by_order")
def by_order(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking.of_order(view.services)


@_define("test_counts_its_calls")
def counts_its_calls(view: CaseView, rng: np.random.Generator, *, pause_s: float = 0.0) -> Ranking:
    """One datagram per call, naming the case by what was seen of it: a method has no file to write to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(view.content_key.encode(), ("127.0.0.1", int(os.environ["RCARENA_TEST_CALLS"])))
    time.sleep(pause_s)
    return Ranking.of_metrics(view.metrics.max())


@_define("test_needs_its_package", packages=("tests.rca.package_of_a_method",))
def needs_its_package(view: CaseView, rng: np.random.Generator) -> Ranking:
    """Fails when the runner has not imported the package before the clock of the method started."""
    if "tests.rca.package_of_a_method" not in sys.modules:
        raise RuntimeError("its package is not imported yet")
    return Ranking.of_order(view.services)
