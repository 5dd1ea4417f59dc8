# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Durations and times of the stand-in for Ollama, in Go's syntax and in nanoseconds."""
from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
FOREVER = 2**63 - 1

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": SECOND, "m": MINUTE, "h": 60 * MINUTE}
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as `-1m`, `1h30m`, `0`; ValueError with Go's text."""
    quoted = json.dumps(text, ensure_ascii=False)
    sign, rest = 1, text
    if rest[:1] in ("+", "-"):
        sign, rest = (-1 if rest[0] == "-" else 1), rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f"time: invalid duration {quoted}")
    total = 0.0
    exact = 0
    while rest:
        term = _TERM.match(rest)
        whole, fraction, unit = (term.group(1), term.group(2), term.group(3)) if term else ("", None, "")
        if not term or not (whole or fraction):
            raise ValueError(f"time: invalid duration {quoted}")
        if not unit:
            raise ValueError(f"time: missing unit in duration {quoted}")
        if unit not in _UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration {quoted}')
        exact += int(whole or 0) * _UNITS[unit]
        total += float(f"0.{fraction}") * _UNITS[unit] if fraction else 0
        rest = rest[term.end():]
    nanoseconds = exact + int(total)
    if nanoseconds > FOREVER:
        raise ValueError(f"time: invalid duration {quoted}")
    return sign * nanoseconds


def parse_keep_alive(value: Any) -> int | None:
    """The `keep_alive` of a request in nanoseconds, None when absent.

    A number is seconds, negative is forever. A string must be a duration with a unit: "-1" and "300" are errors,
    unlike in the environment variable. ValueError with the text that the API answers.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise ValueError("Unsupported type: 'bool'")
    if isinstance(value, (int, float)):
        return FOREVER if value < 0 else min(int(value * SECOND), FOREVER)
    if isinstance(value, str):
        duration = parse_duration(value)
        return FOREVER if duration < 0 else duration
    kind = "[]interface {}" if isinstance(value, list) else "map[string]interface {}"
    raise ValueError(f"Unsupported type: '{kind}'")


def rfc3339(moment: datetime) -> str:
    """Nanosecond form as Go writes it: `Z` for UTC, otherwise the offset."""
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    offset = moment.strftime("%z")
    return text + ("Z" if offset in ("", "+0000") else f"{offset[:3]}:{offset[3:5]}")


def now_utc() -> str:
    """Now, as in `created_at`."""
    return rfc3339(datetime.now(timezone.utc))


def local_time(timestamp: float) -> str:
    """A moment in the server's own zone, as in `modified_at`."""
    return rfc3339(datetime.fromtimestamp(timestamp).astimezone())


def after(nanoseconds: int) -> datetime:
    """Now plus a duration; forever ends in about the year 2318."""
    return datetime.now().astimezone() + timedelta(microseconds=nanoseconds / 1000)
