#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_registry_info
short_description: Ask a registry which content the tags of models have
version_added: 0.1.0
description:
  - Gets the manifests of models from mirrors or from their registry, and what the headers of their weights say of the memory that they
    take. No model is downloaded. It needs no Ollama, and runs on the controller or on a host.
  - The playbook C(gpufleet.ollama.lock) writes what it returns to a lock file.
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: Reads only.
  diff_mode:
    support: none
    description: Changes nothing.
options:
  name:
    description: Names of models. A name without a tag means C(:latest).
    type: list
    elements: str
    required: true
  sources:
    description:
      - URLs of mirrors, asked in this order before the registry. The first that has a model decides.
      - They are asked for models of C(registry.ollama.ai) only, since a mirror is not told the registry of a name.
    type: list
    elements: str
    default: []
  upstream:
    description: Ask the registry of the name when no mirror has the model.
    type: bool
    default: true
  insecure:
    description: Ask registries over http instead of https. The URLs in O(sources) say this themselves.
    type: bool
    default: false
  metadata:
    description: Read the headers of the weights, less than 1 MB of each model. When that fails it is a warning.
    type: bool
    default: true
  timeout:
    description: Longest silence of a server, in seconds.
    type: int
    default: 60
  retries:
    description: Tries after the first one when a server cannot be reached or is overloaded.
    type: int
    default: 6
"""

EXAMPLES = r"""
- name: See what the tags are now
  gpufleet.ollama.ollama_registry_info:
    name: [llama3.2:1b, all-minilm]
  delegate_to: localhost
  run_once: true
  register: found

- name: Ask only a mirror
  gpufleet.ollama.ollama_registry_info:
    name: [llama3.2:1b]
    sources: [http://mirror:8140]
    upstream: false
"""

RETURN = r"""
models:
  description:
    - By the name with its tag, what a lock file says of a model. C(manifest_digest) is the SHA-256 of the manifest, C(size) the bytes of
      all layers, C(origin) the registry of the name, C(layers) the kind, digest and bytes of each layer, C(metadata) what the header of
      the weights says, C(manifest) the exact text of the manifest.
  type: dict
  returned: success
  sample:
    llama3.2:1b:
      manifest_digest: sha256:baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878
      size: 1321098329
      origin: registry.ollama.ai
      layers:
        - kind: model
          digest: sha256:74701a8c35f6c8d9a4b91f3f3497643001d63e0c7a84e085bed452548fa88d45
          size: 1321082688
      metadata:
        architecture: llama
        block_count: 16
        context_length: 131072
        embedding_length: 2048
        head_count: 32
        head_count_kv: 8
      manifest: '{"schemaVersion":2}'
"""

from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._gguf import GgufError, read_metadata
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import FetchError, Http, shown
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import MAX_BYTES, MEDIA_TYPE, Manifest, ManifestError, lock_entry
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import DEFAULT_HOST, Name, parse

# registries refuse a manifest to clients that are too old to run the model. Nothing is run here, and whether a host can is seen when it pulls
USER_AGENT = "ollama/999.0.0"
MENDS = {
    "not-found": "check the name and the tag in the library of the registry",
    "too-old": "a newer release of this collection may be let in",
    "unauthorized": "a model that needs an account cannot be locked",
    "unreachable": "check the way to it, name a mirror, or ask from a host that reaches the registry",
}


class RegistryError(Exception):
    """A model cannot be had; the text is for the user."""


class Registry:
    """Where models are asked for.

    Args: C(http); URLs of mirrors; whether, and with which scheme, the registry of a name is asked; C(warn) takes sentences.
    """

    def __init__(self, http: Http, sources: list[str], upstream: bool, scheme: str, warn: Callable[[str], Any]) -> None:
        self.http, self.sources, self.upstream, self.scheme, self.warn = http, sources, upstream, scheme, warn
        self._unreachable: dict[str, FetchError] = {}

    def entry(self, name: Name, metadata: bool) -> dict[str, Any]:
        """What a lock says of a model. Raises RegistryError."""
        problems, mends = [], []
        for base in self._bases(name):
            folder = f"{base}/v2/{name.namespace}/{name.model}"
            url = f"{folder}/manifests/{name.tag}"
            try:
                raw = self._get(base, url)
                manifest = Manifest(raw)
                return lock_entry(raw, name.host, self._metadata(name, manifest, folder) if metadata else {})
            except FetchError as error:
                problems.append(str(error) if shown(base) in str(error) else f"{shown(url)}: {error}")
                mends.append(MENDS.get(error.kind, ""))
                if error.final:
                    break
            except ManifestError as error:
                problems.append(f"{shown(url)}: {error}")
                mends.append("something between here and the registry answers in its place")
        raise RegistryError(f"{name.display}: {'; '.join(problems)}" + "".join(f": {mend}" for mend in mends[-1:] if mend))

    def _get(self, base: str, url: str) -> bytes:
        # to try in vain takes a while: once is enough for all models
        if base in self._unreachable:
            raise self._unreachable[base]
        try:
            return self.http.get(url, {"Accept": MEDIA_TYPE}, MAX_BYTES)
        except FetchError as error:
            if error.kind == "unreachable":
                self._unreachable[base] = error
            raise

    def _bases(self, name: Name) -> list[str]:
        bases = [source.rstrip("/") for source in self.sources] if name.host.lower() == DEFAULT_HOST else []
        bases += [f"{self.scheme}://{name.host}"] if self.upstream else []
        if not bases:
            raise RegistryError(f"{name.display}: nobody is asked for it: give sources for names of {DEFAULT_HOST}, or set upstream to true")
        return bases

    def _metadata(self, name: Name, manifest: Manifest, folder: str) -> dict[str, Any]:
        layer = manifest.first("model")
        if layer is None:
            return {}

        def read(offset: int, length: int) -> bytes:
            end = min(offset + length, layer.size)
            return self.http.read_range(f"{folder}/blobs/{layer.digest}", offset, end) if offset < end else b""

        try:
            return read_metadata(read)
        except (GgufError, FetchError) as error:
            self.warn(f"{name.display}: the header of its weights cannot be read, so the memory that it takes stays unknown: {error}")
            return {}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "list", "elements": "str", "required": True},
            "sources": {"type": "list", "elements": "str", "default": []},
            "upstream": {"type": "bool", "default": True},
            "insecure": {"type": "bool", "default": False},
            "metadata": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 60},
            "retries": {"type": "int", "default": 6},
        },
        supports_check_mode=True,
    )
    params = module.params
    http = Http(USER_AGENT, params["timeout"], params["retries"])
    registry = Registry(http, params["sources"], params["upstream"], "http" if params["insecure"] else "https", module.warn)
    models, problems = {}, []
    try:
        # one of all spellings of a name
        names = {name.key: name for name in map(parse, reversed(params["name"]))}
    except ValueError as error:
        module.fail_json(msg=str(error))
    for _key, name in sorted(names.items()):
        try:
            models[name.display] = registry.entry(name, params["metadata"])
        except RegistryError as error:
            problems.append(str(error))
    if problems:
        module.fail_json(msg=". ".join(problems))
    module.exit_json(changed=False, models=models)


if __name__ == "__main__":
    main()
