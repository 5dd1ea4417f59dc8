"""Module ollama_gateway_keys is an action plugin; what is here is its documentation."""

from __future__ import annotations

import yaml

from ansible_collections.gpufleet.ollama.plugins.action.ollama_gateway_keys import ARGUMENT_SPEC
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_gateway_keys


def test_documentation_is_that_of_the_plugin() -> None:
    """Ansible compares the two for modules only."""
    documented = yaml.safe_load(ollama_gateway_keys.DOCUMENTATION)["options"]
    assert {name: {field: value for field, value in option.items() if field != "description"} for name, option in documented.items()} == ARGUMENT_SPEC
