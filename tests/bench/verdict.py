# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the benchmarks say whether a figure is what is wanted."""
from __future__ import annotations

from collections.abc import Mapping


def missed(figures: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Print each figure beside what it may be at most; returns how many are above it."""
    width = max(map(len, wanted))
    for name, limit in wanted.items():
        print(f"{'ok    ' if figures[name] <= limit else 'MISSED'} {name:{width}} {figures[name]:8.3f}, wanted at most {limit:g}")
    return sum(figures[name] > limit for name, limit in wanted.items())
