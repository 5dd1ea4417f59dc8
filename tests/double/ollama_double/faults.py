# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Faults and statistics of the stand-in's registry."""
from __future__ import annotations

import fnmatch
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import Any

# What a fault may do; the README says it at length.
FAULTS = (
    "status", "no_location", "no_range", "no_length", "wrong_bytes", "stall_after_bytes", "cut_after_bytes",
    "rate", "foreign_realm", "expire_seconds",
)
# Where it may do it: the kinds of path that the statistics count, too.
KINDS = ("manifest", "blob_head", "blob_get", "blob_range", "token", "upload", "file", "other")


class BadFault(ValueError):
    """The text says what is wrong with a posted fault."""


@dataclass
class Fault:
    """One fault: what (`fault`), with which numbers, and for which requests."""

    fault: str
    status: int = 503
    body: str = ""
    retry_after: int | None = None
    bytes: int = 0
    bytes_per_second: int = 0
    seconds: float = 3600.0
    realm: str = "elsewhere.invalid"
    count: int | None = None
    kind: str = ""
    name: str = "*"
    digest: str = ""
    used: int = field(default=0)

    @classmethod
    def from_json(cls, entry: Any) -> "Fault":
        """Check a posted fault; BadFault when it is none."""
        known = {item.name for item in fields(cls)} - {"used"}
        if not isinstance(entry, dict) or entry.get("fault") not in FAULTS:
            raise BadFault(f"want an object with fault one of {', '.join(FAULTS)}, got {entry}")
        if set(entry) - known:
            raise BadFault(f"unknown keys {', '.join(sorted(set(entry) - known))}; known are {', '.join(sorted(known))}")
        if entry.get("kind", "") not in ("",) + KINDS:
            raise BadFault(f"kind must be one of {', '.join(KINDS)}")
        return cls(**entry)

    def matches(self, kind: str, name: str, digest: str) -> bool:
        """True when the fault is meant for this request and is not used up."""
        return (
            (self.count is None or self.used < self.count)
            and self.kind in ("", kind)
            and fnmatch.fnmatchcase(name, self.name)
            and (not self.digest or digest.startswith(self.digest))
        )


class Faults:
    """The faults in force, in the order in which they were posted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, entries: Any) -> None:
        """Add one fault or a list of them."""
        found = [Fault.from_json(entry) for entry in (entries if isinstance(entries, list) else [entries])]
        with self._lock:
            self._faults += found

    def clear(self) -> None:
        """No faults any more."""
        with self._lock:
            self._faults.clear()

    def listed(self) -> list[dict[str, Any]]:
        """The faults with the number of requests that each has hit."""
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def take(self, fault: str, kind: str, name: str = "", digest: str = "") -> Fault | None:
        """The first fault of that sort for this request, counted as used."""
        with self._lock:
            for entry in self._faults:
                if entry.fault == fault and entry.matches(kind, name, digest):
                    entry.used += 1
                    return entry
        return None


class Stats:
    """Requests and bytes served, by kind of path and by digest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._digest_requests: Counter[str] = Counter()
        self._digest_bytes: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._log: list[dict[str, Any]] = []

    def request(self, kind: str, digest: str, status: int, line: dict[str, Any]) -> None:
        """Count a request that was answered."""
        with self._lock:
            self._requests[kind] += 1
            self._statuses[str(status)] += 1
            if digest:
                self._digest_requests[digest] += 1
            self._log.append(line)
            del self._log[:-1000]

    def sent(self, kind: str, digest: str, count: int) -> None:
        """Count bytes of a body."""
        with self._lock:
            self._bytes[kind] += count
            if digest:
                self._digest_bytes[digest] += count

    def reset(self) -> None:
        """Start counting from 0."""
        with self._lock:
            for counter in (self._requests, self._bytes, self._digest_requests, self._digest_bytes, self._statuses):
                counter.clear()
            self._log.clear()

    def as_json(self) -> dict[str, Any]:
        """The answer of /_double/stats."""
        with self._lock:
            digests = sorted(set(self._digest_requests) | set(self._digest_bytes))
            return {
                "requests": sum(self._requests.values()),
                "bytes": sum(self._bytes.values()),
                "kinds": {
                    kind: {"requests": self._requests[kind], "bytes": self._bytes[kind]}
                    for kind in KINDS if self._requests[kind] or self._bytes[kind]
                },
                "digests": {
                    digest: {"requests": self._digest_requests[digest], "bytes": self._digest_bytes[digest]} for digest in digests
                },
                "statuses": dict(self._statuses),
                "log": list(self._log),
            }
