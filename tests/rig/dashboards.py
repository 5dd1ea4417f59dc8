"""The dashboards of Grafana, made from the panels below; their queries, for whoever wants to try them.

usage: dashboards.py [--check]
Writes roles/ollama_monitoring/files/dashboards/*.json. --check fails where one is stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "roles/ollama_monitoring/files/dashboards"
# the data source that the role provisions
DATASOURCE = {"type": "prometheus", "uid": "gpufleet"}
# what stands in a query for everything that can be chosen, when it is tried
EVERYTHING = {"$host": ".*", "$model": ".*"}
COLUMNS, WIDTH, HEIGHT = 3, 8, 8


class Panel(NamedTuple):
    """A panel: what it shows, in which unit of Grafana's, by which queries (legend -> PromQL), and as what."""

    title: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"
    about: str = ""


# name -> title, the variables of the dashboard (name -> query of its values), and its panels
DASHBOARDS: dict[str, tuple[str, dict[str, str], list[Panel]]] = {
    "fleet": (
        "Fleet",
        {},
        [
            Panel("Health", "none", {"{{host}} {{ollama_instance}}": "ollama_health_status"}, "stat", "1: the instance answers"),
            Panel("Models in memory", "none", {"{{host}} {{ollama_instance}}": "ollama_models_loaded"}, "stat"),
            Panel("Alerts", "none", {"{{alertname}} {{host}}": 'ALERTS{alertstate="firing"}'}, "table"),
            Panel("Requests", "reqps", {"{{route}} {{status}}": "rate(nginx_http_requests_total[5m])"}),
            Panel("Errors", "reqps", {"{{route}} {{status}}": 'rate(nginx_http_requests_total{status=~"5.."}[5m])'}),
            Panel("Share of errors", "percentunit", {"5 minutes": "gateway:error_ratio:rate5m", "1 hour": "gateway:error_ratio:rate1h"}),
            Panel(
                "p99 of answers", "s", {"{{route}} {{model}}": "histogram_quantile(0.99, rate(nginx_http_request_duration_seconds_bucket[5m]))"},
                about="Up to the last token",
            ),
            Panel("p99 of the first token", "s", {"{{model}}": "model:ollama_gateway_time_to_first_token_seconds:p99_5m"}),
            Panel("Connections", "none", {"{{host}}": "nginx_connections_active"}, about="Idle ones too"),
            Panel("Tokens a second, of all answers", "short", {"{{kind}}": "sum by (kind) (kind_client_model:ollama_gateway_tokens:rate5m)"}),
            Panel("Targets", "none", {"{{job}}": "sum by (job) (up)"}, "stat", "How many answer"),
            Panel("Versions", "none", {"{{version}}": "count by (version) (ollama_info)"}, "table"),
        ],
    ),
    "gateway": (
        "Gateways",
        {"host": "label_values(nginx_connections_active, host)"},
        [
            Panel("Requests", "reqps", {"{{route}} {{status}}": 'host_route_status:nginx_http_requests:rate5m{host=~"$host"}'}),
            Panel("Requests by client", "reqps", {"{{client}}": 'sum by (client) (rate(nginx_http_requests_total{host=~"$host"}[5m]))'}),
            Panel("Refused", "reqps", {"{{reason}}": "reason:ollama_gateway_rejected:rate5m"}, about="By the gateway itself, and why"),
            Panel("p50 and p99 by route", "s", {
                "p50 {{route}}": "route:nginx_http_request_duration_seconds:p50_5m", "p99 {{route}}": "route:nginx_http_request_duration_seconds:p99_5m",
            }),
            Panel("Late answers", "percentunit", {
                "last token": "gateway:slow_ratio:rate5m", "first token": "gateway:first_token_slow_ratio:rate5m",
            }, about="Share that took longer than promised, ollama_monitoring_objective_*"),
            Panel("How streams ended", "reqps", {
                "{{outcome}}": 'sum by (outcome) (rate(ollama_gateway_stream_outcomes_total{host=~"$host"}[5m]))',
            }, about="upstream_truncated: Ollama broke the answer off"),
            Panel("Under way, by instance", "none", {"{{exported_host}} {{exported_instance}}": 'ollama_gateway_upstream_inflight{host=~"$host"}'}),
            Panel("Instances that answer", "none", {
                "{{host}} to {{exported_host}} {{exported_instance}}": 'ollama_gateway_upstream_up{host=~"$host"} * (1 - ollama_gateway_upstream_drained)',
            }, "stat", "0: down or drained"),
            Panel("Failed connections to instances", "reqps", {
                "{{exported_host}} {{exported_instance}}": 'rate(ollama_gateway_upstream_failures_total{host=~"$host"}[5m])',
            }),
            Panel("Connections", "none", {
                "active {{host}}": 'nginx_connections_active{host=~"$host"}', "waiting {{host}}": 'nginx_connections_waiting{host=~"$host"}',
            }),
            Panel("Certificate ends in", "s", {"{{host}}": 'ollama_gateway_certificate_expiry_timestamp_seconds{host=~"$host"} - time()'}, "stat"),
            Panel("Generations of a client", "none", {"{{client}}": 'ollama_gateway_client_generations{host=~"$host"}'}),
        ],
    ),
    "models": (
        "Models",
        {"host": "label_values(ollama_health_status, host)", "model": "label_values(ollama_model_size_bytes, model)"},
        [
            Panel("Tokens of answers", "short", {
                "{{model}}": 'sum by (model) (rate(ollama_gateway_tokens_total{kind="completion",model=~"$model"}[5m]))',
            }, about="A second, of all answers together"),
            Panel("Tokens of prompts", "short", {"{{model}}": 'sum by (model) (rate(ollama_gateway_tokens_total{kind="prompt",model=~"$model"}[5m]))'}),
            Panel("Speed", "short", {"{{model}}": 'model:output_tokens_per_second:rate5m{model=~"$model"}'}, about="Tokens a second of one answer"),
            Panel("First token", "s", {
                "p50 {{model}}": 'model:ollama_gateway_time_to_first_token_seconds:p50_5m{model=~"$model"}',
                "p99 {{model}}": 'model:ollama_gateway_time_to_first_token_seconds:p99_5m{model=~"$model"}',
            }),
            Panel("Last token", "s", {
                "p50 {{model}}": 'model:nginx_http_request_duration_seconds:p50_5m{model=~"$model"}',
                "p99 {{model}}": 'model:nginx_http_request_duration_seconds:p99_5m{model=~"$model"}',
            }),
            Panel("Tokens by client", "short", {"{{client}}": 'sum by (client) (kind_client_model:ollama_gateway_tokens:rate5m{model=~"$model"})'}),
            Panel("In memory", "bytes", {"{{host}} {{model}}": 'ollama_model_loaded_size_bytes{host=~"$host",model=~"$model"}'}),
            Panel("Share in GPU memory", "percentunit", {"{{host}} {{model}}": 'ollama_model_gpu_ratio{host=~"$host",model=~"$model"}'}),
            Panel("Models by instance", "none", {
                "{{host}} {{ollama_instance}} stored": 'ollama_models_available{host=~"$host"}',
                "{{host}} {{ollama_instance}} in memory": 'ollama_models_loaded{host=~"$host"}',
            }),
            Panel("Missing or not as locked", "none", {
                "missing {{host}} {{model}}": 'ollama_model_missing{host=~"$host",model=~"$model"}',
                "stale {{host}} {{model}}": 'ollama_model_stale{host=~"$host",model=~"$model"}',
            }, "table"),
            Panel("Stores", "bytes", {
                "{{host}} {{store}}": 'ollama_store_bytes{host=~"$host"}', "{{host}} broken off": 'ollama_store_partial_bytes{host=~"$host"}',
                "{{host}} of no model": 'ollama_store_orphaned_bytes{host=~"$host"}',
            }),
            Panel("Size of models", "bytes", {"{{model}}": 'max by (model) (ollama_model_size_bytes{host=~"$host",model=~"$model"})'}, "table"),
        ],
    ),
    "gpus": (
        "GPUs",
        {"host": "label_values(gpu_count, host)"},
        [
            Panel("Utilization", "percentunit", {"{{host}} {{uuid}}": 'nvidia_smi_utilization_gpu_ratio{host=~"$host"}'}),
            Panel("Memory", "percentunit", {
                "{{host}} {{uuid}}": 'nvidia_smi_memory_used_bytes{host=~"$host"} / nvidia_smi_memory_total_bytes{host=~"$host"}',
            }, about="Full is normal: Ollama keeps models loaded"),
            Panel("Temperature", "celsius", {"{{host}} {{uuid}}": 'nvidia_smi_temperature_gpu{host=~"$host"}'}),
            Panel("Power", "watt", {"{{host}} {{uuid}}": 'nvidia_smi_power_draw_watts{host=~"$host"}'}),
            Panel("Share of the power limit", "percentunit", {
                "{{host}} {{uuid}}": 'nvidia_smi_power_draw_watts{host=~"$host"} / nvidia_smi_power_limit_watts{host=~"$host"}',
            }),
            Panel("GPUs in the driver", "none", {
                "{{host}}": 'gpu_usable_count{host=~"$host"}', "{{host}} wanted": 'gpu_expected_count{host=~"$host"}',
            }, "stat"),
            Panel("Driver", "none", {"{{host}} {{loaded}}": 'gpu_driver_info{host=~"$host"}'}, "table"),
            Panel("Verdict", "none", {"{{host}} {{verdict}}": 'gpu_health{host=~"$host"} == 1'}, "table"),
            Panel("XID errors", "none", {"{{host}} {{xid}}": 'gpu_xid_errors{host=~"$host"}'}, "table"),
            Panel("Memory of models", "bytes", {"{{host}} {{ollama_instance}}": 'host_instance:ollama_model_vram_bytes:sum{host=~"$host"}'}),
        ],
    ),
    "hosts": (
        "Hosts",
        {"host": "label_values(node_uname_info, host)"},
        [
            Panel("CPU", "percentunit", {"{{host}}": 'host:node_cpu_used:ratio5m{host=~"$host"}'}),
            Panel("Memory", "percentunit", {"{{host}}": 'host:node_memory_used:ratio{host=~"$host"}'}),
            Panel("Load of a core", "short", {
                "{{host}}": 'node_load5{host=~"$host"} / on (host) count by (host) (node_cpu_seconds_total{host=~"$host",mode="idle"})',
            }),
            Panel("Free disk", "percentunit", {
                "{{host}} {{mountpoint}}": 'node_filesystem_avail_bytes{host=~"$host",fstype!~"tmpfs|ramfs"} / node_filesystem_size_bytes',
            }),
            Panel("Disk read and written", "Bps", {
                "{{host}} read": 'sum by (host) (rate(node_disk_read_bytes_total{host=~"$host"}[5m]))',
                "{{host}} written": 'sum by (host) (rate(node_disk_written_bytes_total{host=~"$host"}[5m]))',
            }),
            Panel("Network", "Bps", {
                "{{host}} in": 'sum by (host) (rate(node_network_receive_bytes_total{host=~"$host",device!="lo"}[5m]))',
                "{{host}} out": 'sum by (host) (rate(node_network_transmit_bytes_total{host=~"$host",device!="lo"}[5m]))',
            }),
            Panel("Up since", "s", {"{{host}}": 'time() - node_boot_time_seconds{host=~"$host"}'}, "stat"),
            Panel("Ended for want of memory", "none", {"{{host}}": 'increase(node_vmstat_oom_kill{host=~"$host"}[1h])'}),
            Panel("Age of the last backup", "s", {"{{host}}": 'time() - ollama_backup_last_success_timestamp_seconds{host=~"$host"}'}, "stat"),
        ],
    ),
}


def queries() -> list[tuple[str, str, str]]:
    """Dashboard, panel and query of every query, with everything chosen."""
    result = []
    for name, (_title, _variables, panels) in DASHBOARDS.items():
        for panel in panels:
            for query in panel.queries.values():
                for variable, value in EVERYTHING.items():
                    query = query.replace(variable, value)
                result.append((name, panel.title, query))
    return result


def panel_json(number: int, panel: Panel) -> dict[str, Any]:
    """A panel as Grafana keeps it."""
    instant = panel.kind != "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": query, "legendFormat": legend, "instant": instant, "range": not instant,
            **({"format": "table"} if panel.kind == "table" else {}),
        }
        for i, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": number % COLUMNS * WIDTH, "y": number // COLUMNS * HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, **({"min": 0} if panel.unit != "s" else {})}, "overrides": []},
        "targets": targets,
    }


def variable_json(name: str, query: str) -> dict[str, Any]:
    """What can be chosen above the panels."""
    return {
        "name": name, "type": "query", "datasource": DATASOURCE, "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": True,
        "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
    }


def dashboard_json(name: str) -> dict[str, Any]:
    """A dashboard as Grafana reads it from a file."""
    title, variables, panels = DASHBOARDS[name]
    return {
        "uid": f"gpufleet-{name}",
        "title": title,
        "tags": ["gpufleet"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [variable_json(variable, query) for variable, query in variables.items()]},
        "links": [{"type": "dashboards", "title": "Dashboards", "tags": ["gpufleet"], "asDropdown": True, "includeVars": True, "keepTime": True}],
        "panels": [panel_json(number, panel) for number, panel in enumerate(panels)],
    }


def files() -> dict[Path, str]:
    """Every file and what it has to hold."""
    return {FOLDER / f"{name}.json": json.dumps(dashboard_json(name), indent=2) + "\n" for name in DASHBOARDS}


def main() -> int:
    """Command line."""
    wanted = files()
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    stale += [path for path in FOLDER.glob("*.json") if path not in wanted]
    if sys.argv[1:] == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run make dashboards")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in stale:
        if path in wanted:
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
    print("dashboards written:", ", ".join(path.stem for path in stale) or "none, all are current")
    return 0


if __name__ == "__main__":
    sys.exit(main())
