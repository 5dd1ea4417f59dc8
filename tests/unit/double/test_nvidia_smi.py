"""The stand-in of nvidia-smi: one description behind all answers, and nothing that it does not know."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import pytest
from nvidia import nvidia_smi

FOLDER = Path(__file__).resolve().parents[2] / "double/nvidia"
UUID = "GPU-00000000-aaaa-bbbb-cccc-000000000000"
OTHER = "GPU-00000001-aaaa-bbbb-cccc-000000000001"


class Smi:
    """The program with a description in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.description: dict[str, Any] = {}
        self.boot("one")

    def describe(self, name: str, **more: Any) -> None:
        """Take a scenario, with other keys."""
        self.description = {**json.loads((FOLDER / f"scenarios/{name}.json").read_text(encoding="utf-8")), "proc_dir": str(self.folder / "proc"), **more}
        (self.folder / "smi.json").write_text(json.dumps(self.description), encoding="utf-8")

    def boot(self, boot_id: str) -> None:
        """Boot the host."""
        path = self.folder / "proc/sys/kernel/random/boot_id"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{boot_id}\n", encoding="utf-8")

    def run(self, arguments: str) -> tuple[int, str]:
        """Status and output; in this process, which is quicker."""
        output = io.StringIO()
        with patch.object(nvidia_smi, "FOLDER", self.folder), redirect_stdout(output), redirect_stderr(io.StringIO()):
            status = nvidia_smi.main(arguments.split())
        return status, output.getvalue()

    def told(self, arguments: str) -> str:
        """The output of a call that succeeds."""
        status, output = self.run(arguments)
        assert status == 0, output
        return output

    def value(self, field: str, gpu: str = "0") -> str:
        """A field of a GPU."""
        return self.told(f"-i {gpu} --query-gpu={field} --format=csv,noheader").strip()

    @property
    def calls(self) -> list[str]:
        """What it was told to set."""
        path = self.folder / "calls.log"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.fixture
def smi(tmp_path: Path) -> Smi:
    """Two healthy H100."""
    program = Smi(tmp_path)
    program.describe("healthy")
    return program


@pytest.mark.parametrize(
    "arguments",
    [
        "--version -q", "-q", "-x", "-L -q", "-L -L", "-i", "-pm", "-pm 2", "-pl", "-pl much",
        "-lgc a,b", "-lgc 1,2,3", "-rgc 1", "-e maybe", "-mig 3", "-pm 1 -pl 300", "-L extra", "extra", "--query-gpu=name", "--format=csv",
        "--query-gpu name --format=csv", "--query-gpu= --format=csv",
        "--query-gpu=name --query-compute-apps=pid --format=csv", "--list-gpus=1", "mig", "mig -C", "mig -cgi", "mig -dci -dgi", "mig -lgi -C",
    ],
)  # fmt: skip
def test_strict(smi: Smi, arguments: str) -> None:
    """What it does not know is an error, and nothing is set."""
    status, output = smi.run(arguments)
    assert (status, output) == (2, "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n")
    assert not smi.calls and not (smi.folder / "state.json").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("-r", 255, "ERROR: Option -r is not recognized. Please run 'nvidia-smi -h'.\n\n"),
        ("--no-such", 255, "ERROR: Option --no-such is not recognized. Please run 'nvidia-smi -h'.\n\n"),
        ("-pl=300", 255, "ERROR: Option -pl=300 is not recognized. Please run 'nvidia-smi -h'.\n\n"),
        ("mig -lgip", 255, "ERROR: Option -lgip is not recognized. Please run 'nvidia-smi -h'.\n\n"),
        ("--query-gpu=name --format=json", 2, "Format modifier is not recognized.\n"),
        ("--query-gpu=name --format=noheader", 2, "Format modifier is not recognized.\n"),
        ("--query-gpu=name --format=csv,nohead", 2, "Format modifier is not recognized.\n"),
        ("-i 0 -L", 2, "ERROR: Option -i is not valid for this command. Please run 'nvidia-smi -h' for help.\n\n"),
    ],
)
def test_the_words_of_the_real_one(smi: Smi, arguments: str, status: int, said: str) -> None:
    """As driver 580 says it; what only the stand-in does not know is refused as what nobody knows."""
    assert smi.run(arguments) == (status, said)
    assert not smi.calls and not (smi.folder / "state.json").exists()


@pytest.mark.parametrize("field", ["no.such.field", "name,index,no.such.field", "Name"])
def test_unknown_field(smi: Smi, field: str) -> None:
    """The words of the real one."""
    assert smi.run(f"--query-gpu={field} --format=csv") == (2, f'Field "{field.split(",")[-1]}" is not a valid field to query.\n\n')
    assert smi.run("--query-compute-apps=utilization.gpu --format=csv")[0] == 2


def test_fields_that_a_driver_does_not_know(smi: Smi) -> None:
    """By its version, or by the description."""
    smi.describe("too_old")
    assert smi.run("--query-gpu=gpu_recovery_action --format=csv")[0] == 2
    assert "gpu_recovery_action" not in smi.told("-q -x") + smi.told("--help-query-gpu")
    smi.describe("healthy", unknown_fields=["power.draw"])
    assert smi.run("--query-gpu=power.draw --format=csv")[0] == 2
    assert smi.value("gpu_recovery_action") == "None"


def test_csv(smi: Smi) -> None:
    """Units in the header, units or none in the rows, a comma and a space between."""
    query = "--query-gpu=index,name,memory.total,power.draw,mig.mode.current,temperature.memory"
    assert smi.told(f"{query} --format=csv") == (
        "index, name, memory.total [MiB], power.draw [W], mig.mode.current, temperature.memory\n"
        "0, NVIDIA H100 80GB HBM3, 81559 MiB, 69.85 W, Disabled, 48\n1, NVIDIA H100 80GB HBM3, 81559 MiB, 69.85 W, Disabled, 48\n"
    )
    assert smi.told(f"{query} --format=csv,noheader,nounits -i 1") == "1, NVIDIA H100 80GB HBM3, 81559, 69.85, Disabled, 48\n"
    smi.describe("consumer")
    assert smi.value("ecc.mode.current,ecc.errors.uncorrected.volatile.total,temperature.memory,fabric.state") == "[N/A], [N/A], N/A, N/A"


@pytest.mark.parametrize(
    "name", ["healthy", "hgx", "mig", "consumer", "ecc", "remap", "recovery", "two_part_version", "fabric_waiting", "too_old", "busy", "hot"]
)
def test_answers_agree(smi: Smi, name: str) -> None:
    """The list, the table and the document say the same."""
    smi.describe(name)
    document = ElementTree.fromstring(smi.told("-q -x"))
    rows = [line.split(", ") for line in smi.told("--query-gpu=uuid,pci.bus_id,name,driver_version,temperature.gpu --format=csv,noheader").splitlines()]
    assert rows == [
        [
            gpu.findtext("uuid"),
            gpu.get("id"),
            gpu.findtext("product_name"),
            document.findtext("driver_version"),
            f"{gpu.findtext('temperature/gpu_temp')}".removesuffix(" C"),
        ]
        for gpu in document.findall("gpu")
    ]  # fmt: skip
    listed = [line for line in smi.told("-L").splitlines() if line.startswith("GPU")]
    assert listed == [f"GPU {index}: {row[2]} (UUID: {row[0]})" for index, row in enumerate(rows)]
    assert [row[1] for row in rows] == [f"0000{gpu['bus_id'].upper()}" for gpu in smi.description["gpus"]]
    assert smi.told("").startswith(f"NVIDIA-SMI {rows[0][3]} ")
    for field, path in (("gpu_recovery_action", "gpu_recovery_action"), ("fabric.state", "fabric/state"), ("mig.mode.pending", "mig_mode/pending_mig")):
        if name != "too_old" or field == "mig.mode.pending":
            assert smi.value(field).strip("[]") == document.findtext(f"gpu/{path}"), field


@pytest.mark.parametrize("selector", ["1", OTHER, "00000000:3B:00.0", "0000:3b:00.0"])
def test_selector(smi: Smi, selector: str) -> None:
    """By index, UUID and address, before and behind, short and long; several at once."""
    query = "--query-gpu=gpu_uuid --format=csv"
    for arguments in (f"-i {selector} {query}", f"{query} -i {selector}", f"{query} --id={selector}"):
        assert smi.told(arguments) == f"uuid\n{OTHER}\n"
    assert smi.told(f"{query} -i {selector},0").count("GPU-") == 2
    assert len(ElementTree.fromstring(smi.told(f"-q -x -i {selector}")).findall("gpu")) == 1
    assert smi.run("-q -x -i 7") == (6, "No devices were found\n")


def test_lists_of_mig_devices(smi: Smi) -> None:
    """Two spaces before, and the document without UUIDs."""
    smi.describe("mig")
    assert smi.told("-L").splitlines()[:3] == [
        f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {UUID})",
        "  MIG 3g.40gb      Device  0: (UUID: MIG-11111111-1111-5111-8111-111111111111)",
        "  MIG 2g.20gb      Device  1: (UUID: MIG-22222222-2222-5222-8222-222222222222)",
    ]
    document = smi.told("-q -x")
    assert document.count("<mig_device>") == 2 and "MIG-1111" not in document
    assert smi.value("utilization.gpu,remapped_rows.pending") == "[N/A], [N/A]"


def test_processes(smi: Smi) -> None:
    """In the table and in the document, of the chosen GPU."""
    smi.describe("busy")
    query = "--query-compute-apps=pid,process_name,gpu_uuid,used_gpu_memory --format=csv"
    assert smi.told(query) == f"pid, process_name, gpu_uuid, used_gpu_memory [MiB]\n4201, /usr/local/lib/ollama/llama-server, {UUID}, 40960 MiB\n"
    assert smi.told(f"{query},noheader -i 1") == ""
    assert smi.told("-q -x").count("<pid>4201</pid>") == 1


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("no_driver", 9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."),
        ("mismatch", 18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159\n"),
    ],
)
def test_failures(smi: Smi, name: str, status: int, text: str) -> None:
    """Every call ends with the status of NVML; a wrong one is wrong first."""
    smi.describe(name)
    for arguments in ("", "-L", "-q -x", "--query-gpu=name --format=csv", "-pm 1", "mig -lgi"):
        found = smi.run(arguments)
        assert found[0] == status and found[1].startswith(text), arguments
    assert smi.run("--no-such-option")[0] == 255
    assert not smi.calls


def test_no_gpus(smi: Smi) -> None:
    """A driver without a GPU."""
    smi.describe("healthy", gpus=[])
    assert smi.run("-L") == (6, "No devices were found\n")


def test_lost(smi: Smi) -> None:
    """What the lost GPU is, is known; its values are not. Status 15 with everything."""
    smi.describe("lost")
    assert smi.run("--query-gpu=uuid,temperature.gpu --format=csv,noheader") == (15, f"{UUID}, 41\n{OTHER}, [GPU is lost]\n")
    status, text = smi.run("-q -x")
    gpus = ElementTree.fromstring(text).findall("gpu")
    assert (status, gpus[1].findtext("temperature/gpu_temp"), gpus[1].findtext("remapped_rows")) == (15, "GPU is lost", "GPU is lost")
    assert gpus[0].findtext("remapped_rows/remapped_row_pending") == "No"
    assert "Unable to determine the device handle for GPU1: 0000:3B:00.0: GPU is lost." in smi.run("-L")[1]


def test_alone(smi: Smi) -> None:
    """As one file, without anything of this tree; a GPU that is lost is told on the error output."""
    program = smi.folder / "nvidia-smi"
    shutil.copy(FOLDER / "nvidia_smi.py", program)
    command = [sys.executable, "-I", str(program), "-L"]
    done = subprocess.run(command, env={"NVIDIA_STANDIN_DIR": str(smi.folder)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("GPU-"), done.stderr) == (0, 2, "")
    smi.describe("lost")
    done = subprocess.run(command, env={"NVIDIA_STANDIN_DIR": str(smi.folder)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (15, nvidia_smi.lost({"index": 1, "bus_id": "0000:3b:00.0"}))


def test_hang(smi: Smi) -> None:
    """It hangs, and its child keeps the output open when it is killed."""
    smi.describe("hang", hang_seconds=2)
    began = time.monotonic()
    command = [sys.executable, str(FOLDER / "nvidia_smi.py"), "-L"]
    with subprocess.Popen(command, env={**os.environ, "NVIDIA_STANDIN_DIR": str(smi.folder)}, stdout=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.kill()
        assert process.stdout and process.stdout.read() == b""
    assert time.monotonic() - began > 1.8


def test_driver_of_the_host(smi: Smi) -> None:
    """A driver that is brought up by another stand-in, and one that is changed under it."""
    library = smi.folder / "library"
    smi.describe("loaded", proc_dir=str(smi.folder / "proc"), library_version_file=str(library))
    assert smi.run("-L")[0] == 9
    path = smi.folder / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    path.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n", encoding="utf-8")
    assert smi.value("driver_version") == "580.95.05"
    library.write_text("580.95.05\n", encoding="utf-8")
    assert smi.value("driver_version") == "580.95.05"
    library.write_text("595.80\n", encoding="utf-8")
    assert smi.run("-L") == (18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 595.80\n")
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  595.80  Tue\n", encoding="utf-8")
    assert smi.value("driver_version") == "595.80"


def test_settings(smi: Smi) -> None:
    """What is set is told, of the chosen GPU alone, and each call is noted."""
    assert "set to 400.00 W from 700.00 W" in smi.told("-pl 400 -i 1")
    assert smi.told("-i 1 -pm 0").endswith("All done.\n")
    smi.told("-lgc 210,1500")
    assert [smi.value("power.limit,persistence_mode", gpu) for gpu in "01"] == ["700.00 W, Enabled", "400.00 W, Disabled"]
    assert "<current_power_limit>400.00 W</current_power_limit>" in smi.told("-q -x -i 1")
    assert smi.calls == ["-pl 400 -i 1", "-i 1 -pm 0", "-lgc 210,1500"]
    assert json.loads((smi.folder / "state.json").read_text(encoding="utf-8"))["gpus"][UUID]["locked_clocks"] == [210, 1500]
    smi.told("-rgc")
    assert json.loads((smi.folder / "state.json").read_text(encoding="utf-8"))["gpus"][UUID]["locked_clocks"] is None


def test_wrong_settings(smi: Smi) -> None:
    """A limit that the board does not have, a mode that it does not know; nothing is set or noted."""
    status, text = smi.run("-pl 900")
    assert status == 2 and "should be between 200.00 W and 700.00 W" in text
    smi.describe("consumer")
    assert [smi.run(arguments)[0] for arguments in ("-e 1", "-mig 1", "mig -cgi 9 -C")] == [3, 3, 6]
    assert not smi.calls


def test_reboot(smi: Smi) -> None:
    """Boards keep modes, which take effect then, and forget limits, clocks and persistence."""
    for arguments in ("-e 0", "-pl 400", "-pm 0", "-lgc 300"):
        smi.told(arguments)
    assert smi.value("ecc.mode.current,ecc.mode.pending,power.limit,persistence_mode") == "Enabled, Disabled, 400.00 W, Disabled"
    smi.boot("two")
    assert smi.value("ecc.mode.current,ecc.mode.pending,power.limit,persistence_mode") == "Disabled, Disabled, 700.00 W, Enabled"
    smi.told("-pm 1")
    assert smi.value("ecc.mode.current") == "Disabled"


def test_mig(smi: Smi) -> None:
    """On, split, refused when full, removed in the right order, off; instances are gone with a reboot, the mode is not."""
    assert smi.run("mig -lgi") == (0, "No MIG-enabled devices found.\n")
    smi.told("-mig 1 -i 0")
    assert smi.value("mig.mode.current,mig.mode.pending") == "Enabled, Enabled"
    assert smi.run("mig -lgi") == (6, "No GPU instances found: Not Found\n")
    text = smi.told("mig -cgi 3g.40gb,14,1g.10gb,19 -C -i 0")
    assert text.count("Successfully created GPU instance") == text.count("Successfully created compute instance") == 4
    listed = smi.told("-L")
    assert [line.split()[1] for line in listed.splitlines() if line.startswith("  MIG")] == ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"]
    assert smi.run("mig -cgi 1g.10gb -C")[0] == 19
    assert "MIG 3g.40gb" in smi.told("mig -lgi")
    # in the wrong order
    assert smi.run("mig -dgi")[0] == 19 and smi.run("-mig 0 -i 0")[0] == 19
    smi.told("mig -dci")
    assert "MIG-" not in smi.told("-L")
    smi.told("mig -dgi")
    # the same placement has the same UUID
    smi.told("mig -cgi 3g.40gb,14,1g.10gb,19 -C -i 0")
    assert smi.told("-L") == listed
    smi.boot("two")
    assert smi.value("mig.mode.current") == "Enabled" and "MIG-" not in smi.told("-L")
    smi.told("-mig 0 -i 0")
    assert smi.value("mig.mode.current") == "Disabled"


def test_half_a_mig_instance(smi: Smi) -> None:
    """Without compute instances there is no device, though the call succeeds; an unknown profile does not."""
    smi.told("-mig 1")
    smi.told("mig -cgi 9 -i 0")
    assert "MIG-" not in smi.told("-L")
    assert smi.run("mig -cgi 9g.90gb -C")[0] == 3


def test_mig_in_use(smi: Smi) -> None:
    """While somebody computes, the mode waits and instances stay."""
    smi.describe("busy")
    assert "pending enable state" in smi.told("-mig 1 -i 0")
    assert smi.value("mig.mode.current,mig.mode.pending") == "Disabled, Enabled"
    smi.boot("two")
    assert smi.value("mig.mode.current") == "Enabled"
    smi.told("mig -cgi 9 -C -i 0")
    assert smi.run("mig -dci -i 0")[0] == 19


def test_every_scenario_is_complete() -> None:
    """Each is valid, and has a line in the README."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in sorted((FOLDER / "scenarios").iterdir()):
        described = json.loads(path.read_text(encoding="utf-8"))
        assert f"`{path.stem}`" in readme, path.name
        assert {"model", "uuid", "bus_id"} <= set.intersection(*(set(gpu) for gpu in described["gpus"])), path.name
