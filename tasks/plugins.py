"""Registries of what can be named in parameters: methods, fault kinds, exporters, backends.

An entry of a registry comes from a module of this package, or from another installed distribution that offers it by an
entry point::

    [project.entry-points."rcarena.methods"]
    mean_shift = "acme_rca.mean_shift"

The entry point's name is the name of what its module registers when it is imported. Modules of other distributions are
imported only when something of theirs is asked for, and one that cannot be used disturbs nobody who does not name it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Generic, TypeVar

from tasks import __version__
from tasks.errors import EXIT_USAGE, RCArenaError
from tasks.text import suggest

T = TypeVar("T")


class PluginError(RCArenaError):
    """An entry point of another distribution offers something that cannot be used."""

    exit_status = EXIT_USAGE


@dataclass(frozen=True)
class Origin:
    """The distribution that something comes from; both empty for what a program registered by itself."""

    distribution: str = ""
    version: str = ""

    @property
    def is_ours(self) -> bool:
        return self == OURS

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}" if self.distribution else "this program"


OURS = Origin("rcarena", __version__)


@dataclass(frozen=True)
class Offer:
    """An entry point of another distribution: ``module`` registers ``name`` when it is imported."""

    name: str
    module: str
    origin: Origin


@dataclass(frozen=True)
class Broken:
    """An offer that cannot be used, and why."""

    name: str
    origin: Origin
    problem: str

    def __str__(self) -> str:
        return f"'{self.name}' of {self.origin} cannot be used: {self.problem}"


class Registry(Generic[T]):
    """Entries that parameters can name, by name.

    Args:
        noun: what an entry is, for messages.
        group: the entry points that offer one.
        packages: our packages whose modules each register what they define.
        check: problems of an entry of another distribution, one line each; our own tests apply it to ours.
    """

    def __init__(
        self, noun: str, group: str, packages: Iterable[str], check: Callable[[T], Iterable[str]] = lambda entry: ()
    ) -> None:
        self.noun = noun
        self.group = group
        self.packages = tuple(packages)
        self.check = check
        self.registered: dict[str, T] = {}
        """What has been registered so far, of whatever origin."""
        self._modules: dict[str, str] = {}
        self._broken: dict[str, Broken] = {}
        self._loaded: set[str] = set()

    def register(self, name: str, entry: T, module: str) -> None:
        """Add what ``module`` defines. A module that is run again replaces its own entry.

        Raises:
            ValueError: another module has registered the name.
        """
        known = self._modules.get(name) if name in self.registered else None
        if known is not None and known != module:
            raise ValueError(f"{self.noun} '{name}' is registered twice: in {known} and {module}")
        self.registered[name] = entry
        self._modules[name] = module

    def names(self) -> list[str]:
        """List every name that can be asked for, without importing a module of another distribution."""
        return sorted({*self._ours, *self.registered, *self.offers})

    def __contains__(self, name: str) -> bool:
        return name in self._ours or name in self.registered or name in self.offers

    def get(self, name: str) -> T:
        """Return the entry called ``name``.

        Raises:
            KeyError: there is none; the message names the allowed ones.
            PluginError: another distribution offers it, and it cannot be used.
        """
        problem = self.problem(name)
        if problem:
            raise PluginError(problem) if name in self else KeyError(problem)
        return self.registered[name]

    def problem(self, name: str) -> str:
        """Return why there is no entry called ``name`` that can be used; empty if there is one."""
        if name not in self:
            return f"unknown {self.noun} '{name}'; {suggest(name, self.names())}"
        self._load(name)
        return str(self._broken[name]) if name in self._broken else ""

    def all(self) -> dict[str, T]:
        """Return every entry that can be used, by name. Imports every module of other distributions."""
        for name in self.offers:
            self._load(name)
        return {name: self.registered[name] for name in self.names() if name not in self._broken}

    def require_all(self) -> dict[str, T]:
        """Load every entry. Raises PluginError when one cannot be used, where ``all`` would leave it out."""
        if self.broken():
            raise PluginError("; ".join(f"{self.noun} {broken}" for broken in self.broken()))
        return self.all()

    def broken(self) -> list[Broken]:
        """Return every offer of another distribution that cannot be used, by name."""
        self.all()
        return [self._broken[name] for name in sorted(self._broken)]

    def origin(self, name: str) -> Origin:
        """Return where the entry called ``name`` comes from."""
        if name in self._ours:
            return OURS
        return self.offers[name].origin if name in self.offers else Origin()

    @property
    def our_modules(self) -> list[str]:
        """The modules that define our entries."""
        return sorted({self._modules[name] for name in self._ours})

    @property
    def other_modules(self) -> list[str]:
        """The modules that define entries of others, as far as they are imported."""
        return sorted({self._modules[name] for name in self.registered.keys() - self._ours})

    @cached_property
    def offers(self) -> Mapping[str, Offer]:
        """The offers of other distributions by name; none is imported yet."""
        offers: dict[str, Offer] = {}
        for point in metadata.entry_points(group=self.group):
            origin = Origin(point.dist.name, point.dist.version) if point.dist is not None else Origin()
            offer = Offer(point.name, point.module, origin)
            if point.name in self._ours:
                problem = f"rcarena has a {self.noun} of that name"
                self._broken[f"{point.name} ({origin})"] = Broken(point.name, origin, problem)
            elif point.name in offers:
                other = offers[point.name].origin
                self._broken[point.name] = Broken(point.name, other, f"{origin} offers the same name")
            else:
                offers[point.name] = offer
        return offers

    @cached_property
    def _ours(self) -> frozenset[str]:
        for package in self.packages:
            for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
                importlib.import_module(f"{package}.{module.name}")
        return frozenset(name for name, module in self._modules.items() if self._is_our_module(module))

    def _is_our_module(self, module: str) -> bool:
        return any(module == package or module.startswith(f"{package}.") for package in self.packages)

    def _load(self, name: str) -> None:
        """Import the module that another distribution offers ``name`` by, once, and check what it registered."""
        offer = self.offers.get(name)
        if offer is None or name in self._loaded or name in self._broken:
            return
        self._loaded.add(name)
        problem = self._problem(offer)
        if problem:
            self._broken[name] = Broken(name, offer.origin, problem)

    def _problem(self, offer: Offer) -> str:
        known = set(self.registered)
        try:
            importlib.import_module(offer.module)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the boundary: somebody else's module may raise anything)
            return f"importing {offer.module} failed: {type(error).__name__}: {_first_line(error)}"
        stray = sorted(set(self.registered) - known - set(self.offers))
        for name in stray:
            del self.registered[name]
        if stray:
            return f"{offer.module} registers '{stray[0]}' as well, which has no entry point of its own"
        if offer.name not in self.registered:
            return f"{offer.module} registers no {self.noun} of that name"
        return "; ".join(self.check(self.registered[offer.name]))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
