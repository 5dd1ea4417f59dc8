"""What an operator may get wrong: each entry of tests/bad_input.yml is refused with its sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _backups, _model, _models

ROOT = Path(__file__).resolve().parents[4]
DEFAULTS = {
    name: value for role in ("common", "ollama_backup")
    for name, value in yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text(encoding="utf-8")).items()
}
ENTRIES = yaml.safe_load((ROOT / "tests/bad_input.yml").read_text(encoding="utf-8"))
BY_MODEL = [entry for entry in ENTRIES if entry.get("by") != "spec"]


def derive(values: dict[str, Any]) -> list[dict[str, str]]:
    """What roles/common/vars/main.yml and the roles ollama_models and ollama_backup derive from a host's variables."""
    _model.management_address("gpu1", values["ollama_management_address"], "10.0.0.5")
    address = _model.listen_address("gpu1", ["gw"], values["ollama_listen_address"], "10.0.0.5")
    writer = _model.store_writer("gpu1", values["ollama_models_mount"], ["gpu1"])
    found = _model.instances(values["ollama_instances"], address, values["ollama_models_dir"] or "(empty)", writer)
    stores = _models.store_models(found, _models.manifest(values["ollama_models"]))
    if values["ollama_backup_enabled"]:
        options = {name.removeprefix("ollama_backup_"): value for name, value in values.items() if name.startswith("ollama_backup_")}
        _backups.backup_plan({**options, "stores": [store["store"] for store in stores]}, "gpu1", {"gpu1": values}, ["gpu1"])
    return stores


def test_the_defaults_are_good() -> None:
    [store] = derive(DEFAULTS)
    assert store["present"] == store["custom"] == []


@pytest.mark.parametrize("entry", BY_MODEL, ids=lambda entry: entry["name"])
def test_bad_input(entry: dict[str, Any]) -> None:
    with pytest.raises(_model.ModelError) as error:
        derive({**DEFAULTS, **entry["vars"]})
    assert entry["message"] in str(error.value)


def test_entries() -> None:
    """Names are unique, since each becomes a host, and only options of these roles are set."""
    assert len({entry["name"] for entry in ENTRIES}) == len(ENTRIES) >= 36
    for entry in ENTRIES:
        assert set(entry) <= {"name", "vars", "message", "by"} and set(entry["vars"]) <= set(DEFAULTS), entry["name"]
