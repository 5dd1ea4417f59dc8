# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Options that every module which speaks to Ollama's API has."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation fragment."""

    DOCUMENTATION = r"""
options:
  url:
    description: Base URL of the Ollama instance, as seen from the host that the module runs on.
    type: str
    default: http://127.0.0.1:11434
  timeout:
    description: Longest silence within an answer, in seconds.
    type: int
    default: 300
"""
