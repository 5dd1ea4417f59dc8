# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Prometheus scrapes the ports that the exporters listen on when nobody set any."""

from __future__ import annotations

from pathlib import Path

import yaml

ROLES = Path(__file__).parents[3] / "roles"


def load(path: str) -> dict:
    """A YAML file of the roles."""
    return yaml.safe_load((ROLES / path).read_text(encoding="utf-8"))


def test_default_ports_of_the_scrape_jobs_are_the_exporters_defaults() -> None:
    jobs = load("ollama_monitoring/vars/main.yml")["__ollama_monitoring_jobs"]
    assert jobs
    for job in jobs:
        # an option's name begins with that of its role
        role = max((path.name for path in ROLES.iterdir() if job["port_option"].startswith(f"{path.name}_")), key=len)
        assert load(f"{role}/defaults/main.yml")[job["port_option"]] == job["default_port"], job["name"]


def test_exporter_answers_before_prometheus_gives_up() -> None:
    exporter = load("ollama_exporter/defaults/main.yml")["ollama_exporter_timeout_seconds"]
    assert exporter + 0.5 < load("ollama_monitoring/defaults/main.yml")["ollama_monitoring_scrape_timeout_seconds"]
