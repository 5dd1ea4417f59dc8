"""ollama_gpu_required on a host whose GPU can be opened: it is proved that models are on it, and a fall to the CPU is taken back.

The node is one of /dev/null under the name of a GPU, and the stand-in takes it for one: what is shown is that the gate lets it pass and
that size_vram and the journal are looked at, not that a GPU computes.
"""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest
from scenario import OLLAMA, on_host, play

HOST = "instances-adopt"
NODES = ("nvidia0", "nvidiactl", "nvidia-uvm")


@pytest.fixture(scope="module", name="gpu")
def host_with_a_gpu() -> Iterator[Any]:
    """The host, with nodes that open."""
    host = on_host(HOST)
    for node in NODES:
        host.check_output(f"[ -e /dev/{node} ] || mknod -m 0666 /dev/{node} c 1 3")
    yield host
    host.check_output("rm -f " + " ".join(f"/dev/{node}" for node in NODES))
    assert play(OLLAMA, "-l", HOST).status == 0


def loaded(host: Any) -> list[tuple[str, float]]:
    """Names of the loaded models and their share on the GPU."""
    models = json.loads(host.check_output("curl -fsS http://127.0.0.1:11434/api/ps"))["models"]
    return [(model["name"], model["size_vram"] / model["size"]) for model in models]


def test_models_are_on_the_gpu(gpu: Any) -> None:
    """The gate lets the instance start, and a model was run to prove where it runs."""
    done = play(OLLAMA, "-l", HOST, ollama_gpu_required=True)
    assert done.status == 0, done
    assert loaded(gpu) == [("all-minilm:latest", 1.0)]
    again = play(OLLAMA, "-l", HOST, ollama_gpu_required=True)
    assert again.status == 0 and again.changed(HOST) == 0, again


def test_a_fall_to_the_cpu_is_taken_back(gpu: Any) -> None:
    """A configuration under which the models run on the CPU does not stay."""
    instances = [{"name": "default", "extra_environment": {"OLLAMA_DOUBLE_VRAM": "cpu"}}]
    done = play(OLLAMA, "-l", HOST, ollama_gpu_required=True, ollama_instances=instances)
    assert done.failed_with("runs all-minilm:latest on the CPU, and a GPU is required"), done
    assert done.failed_with("The host went back to Ollama 0.34.4, with the configuration that it had"), done
    gpu.check_output("""curl -fsS http://127.0.0.1:11434/api/embed -d '{"model": "all-minilm", "input": "hi"}'""")
    assert loaded(gpu) == [("all-minilm:latest", 1.0)]


def test_a_lost_gpu_keeps_the_instance_from_starting(gpu: Any) -> None:
    """After the start a node is gone, as when a card falls off the bus: the next start ends with a line that says so."""
    gpu.check_output("mv /dev/nvidia0 /dev/lost && systemctl restart --no-block ollama@default && sleep 3")
    said = gpu.check_output("journalctl --no-pager -n 20 -o cat -u ollama@default")
    gpu.check_output("mv /dev/lost /dev/nvidia0")
    assert "/dev/nvidia" in said and "nvidia-smi" in said, said
    # Restart= tries again by itself
    gpu.check_output("for n in $(seq 30); do curl -fsS http://127.0.0.1:11434/api/version && exit 0; sleep 1; done; exit 1")
