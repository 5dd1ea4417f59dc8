# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for Ollama and for its registry, for tests only: it speaks their protocols and runs no model."""
from __future__ import annotations

STAND_IN = "stand-in for Ollama (a test double: it speaks the API, no model runs)"
