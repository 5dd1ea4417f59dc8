#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_restore
short_description: Bring models of a backup into a store
version_added: 0.1.0
description:
  - Brings the models of a backup that M(gpufleet.ollama.ollama_backup) made into a store, on the same host or another one. What a registry had at that
    time comes from O(sources) or the registry, pinned by the backup's index; all else comes from the backup.
  - Every blob is compared with its digest, and manifests are those that were saved, to the byte, so a model has the digest that it had. A running
    Ollama sees each as soon as it is whole.
  - What is there is not brought again, and models that the backup does not have are left alone.
requirements:
  - restic (package C(restic) of Debian 12 or 13) for O(format=restic)
author:
  - gpufleet.ollama contributors (@gpufleet)
extends_documentation_fragment:
  - gpufleet.ollama.repository
attributes:
  check_mode:
    support: full
    description: Says what would come from where, with the bytes. Only the index is read.
  diff_mode:
    support: full
    description: Shows the digest of each model before and after.
options:
  host:
    description: The host whose backup it is, as it was called then.
    type: str
    required: true
  name:
    description: Names of models. Empty means all of the backup.
    type: list
    elements: str
    default: []
  snapshot:
    description: Id of the backup, or its beginning. Empty means the newest.
    type: str
    default: ""
  store:
    description: Directory of the models, as C(OLLAMA_MODELS) of the instance says. What is written belongs to the owner of its C(blobs).
    type: path
    default: /var/lib/ollama/models
  from_store:
    description: Which store it was, of a host that had several. Empty means that of the path O(store), or the only one.
    type: str
    default: ""
  sources:
    description: Where to get from what a registry had, in this order, as for M(gpufleet.ollama.ollama_model).
    type: list
    elements: str
    default: []
  upstream:
    description: Ask the registry when no source has it.
    type: bool
    default: true
  insecure:
    description: Speak plain HTTP to the registry.
    type: bool
    default: false
  proxy:
    description: Proxies for the registries, as for M(gpufleet.ollama.ollama_model).
    type: dict
    suboptions:
      https:
        description: For registries that are asked over HTTPS.
        type: str
      http:
        description: For registries that are asked over HTTP.
        type: str
      bypass:
        description: Hosts that are asked without a proxy, separated by commas.
        type: str
  connections:
    description: Connections to one source at the same time.
    type: int
    default: 8
  reserve:
    description: Space that is left free on the disk of the store. A restore that would take it is refused before its first byte.
    type: str
    default: 1G
  url:
    description: Base URL of the Ollama instance, which must show each model with its digest afterwards. Empty when there is none.
    type: str
    default: http://127.0.0.1:11434
  timeout:
    description: Longest silence within an answer of the instance, in seconds.
    type: int
    default: 300
  progress_path:
    description: File that is rewritten meanwhile, at most twice a second, as that of M(gpufleet.ollama.ollama_model).
    type: path
"""

EXAMPLES = r"""
- name: Bring back what gpu1 had, from the newest backup
  gpufleet.ollama.ollama_restore:
    host: gpu1
    repository: s3:https://s3.example.com/backups/fleet
    password: "{{ vault_backup_password }}"
    environment:
      AWS_ACCESS_KEY_ID: "{{ vault_backup_key_id }}"
      AWS_SECRET_ACCESS_KEY: "{{ vault_backup_key }}"
    sources: [http://mirror.example.com:8140]

- name: One model, from a certain backup
  gpufleet.ollama.ollama_restore:
    host: gpu1
    name: support-bot
    snapshot: 61715d5c
    format: cas
    repository: /mnt/backup/fleet
"""

RETURN = r"""
models:
  description: The models.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name with its tag.
      type: str
      returned: success
      sample: support-bot:latest
    digest:
      description: SHA-256 of its manifest, 64 hex digits.
      type: str
      returned: success
      sample: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878
    size:
      description: Size in bytes.
      type: int
      returned: success
      sample: 1321098841
    changed:
      description: Whether it was not there, or another one.
      type: bool
      returned: success
      sample: true
  sample: [{name: support-bot:latest, digest: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878, size: 1321098841, changed: true}]
snapshot:
  description: Id of the backup.
  type: str
  returned: success
  sample: 61715d5c
time:
  description: When it was made, in UTC.
  type: str
  returned: success
  sample: "2026-11-27T02:00:13Z"
backup_bytes:
  description: Bytes of missing layers that come from the backup.
  type: int
  returned: success
  sample: 512
registry_bytes:
  description: Bytes of missing layers that come from sources or a registry.
  type: int
  returned: success
  sample: 1321098329
missing_bytes:
  description: Both together.
  type: int
  returned: success
  sample: 1321098841
fetched_bytes:
  description: Bytes that came over the network from sources and registries. 0 in check mode.
  type: int
  returned: success
  sample: 1321098329
free_bytes:
  description: Bytes that were free on the disk of the store before.
  type: int
  returned: success
  sample: 812398911488
unverified_bytes:
  description: Bytes of blobs of these models that are in the store and were never compared with their digests.
  type: int
  returned: success
  sample: 0
seconds:
  description: Time that the module took.
  type: float
  returned: success
  sample: 12.7
kind:
  description: What kind of failure it was, as for M(gpufleet.ollama.ollama_backup), or as for M(gpufleet.ollama.ollama_model).
  type: str
  returned: failure
  sample: damaged
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._backup import Restore, choose
from ansible_collections.gpufleet.ollama.plugins.module_utils._backup_options import REPOSITORY_SPEC, repository_of
from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import PROXY_SPEC, Http, proxies_of
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import BackupError
from ansible_collections.gpufleet.ollama.plugins.module_utils._sideload import Options, Progress
from ansible_collections.gpufleet.ollama.plugins.module_utils._sizes import human_to_bytes
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store, StoreError

ARGUMENT_SPEC: dict[str, Any] = {
    "host": {"type": "str", "required": True},
    "name": {"type": "list", "elements": "str", "default": []},
    "snapshot": {"type": "str", "default": ""},
    "store": {"type": "path", "default": "/var/lib/ollama/models"},
    "from_store": {"type": "str", "default": ""},
    "sources": {"type": "list", "elements": "str", "default": []},
    "upstream": {"type": "bool", "default": True},
    "insecure": {"type": "bool", "default": False},
    **PROXY_SPEC,
    "connections": {"type": "int", "default": 8},
    "reserve": {"type": "str", "default": "1G"},
    "url": {"type": "str", "default": "http://127.0.0.1:11434"},
    "timeout": {"type": "int", "default": 300},
    "progress_path": {"type": "path"},
    **REPOSITORY_SPEC,
}
# the registry compares it with what a model needs; without a server there is none that could be too old
NO_SERVER_VERSION = "0.99.0"


def compare(client: OllamaClient, store: str, models: list[dict[str, Any]]) -> None:
    """The server must show what is in the store."""
    for model in models:
        found = (client.find(model["name"]) or {}).get("digest")
        if found != model["digest"]:
            raise OllamaError(
                f"{model['name']} is in {store} with the digest {model['digest']}, but {client.url} shows {found or 'no such model'}: is store the "
                "OLLAMA_MODELS of this instance, and may it read it?"
            )


def ensure(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Bring the models. Returns the module's result."""
    client = OllamaClient(params["url"], params["timeout"]) if params["url"] else None
    options = Options(
        **{key: params[key] for key in ("sources", "upstream", "insecure", "connections")}, reserve=human_to_bytes(params["reserve"])
    )
    repository = repository_of(params)
    repository.open()
    snapshot = choose(repository, params["host"], params["from_store"], params["snapshot"], params["store"])

    def make_http() -> Http:
        return Http(f"ollama/{client.version() if client else NO_SERVER_VERSION}", proxies=proxies_of(params["proxy"]))

    store = Store(params["store"])
    restore = Restore(store, repository, snapshot, options, make_http)
    names = restore.names(params["name"])
    # its directory may be root's alone
    progress = Progress(None if check_mode else params["progress_path"], len(names))
    report = restore.plan(names, check_mode)
    models = [
        {"name": model.name.display, "digest": model.manifest.digest[7:], "size": model.manifest.size, "changed": model.changed}
        for model in report.plan.models if model.manifest
    ]
    before = [model.present.digest[7:] if model.present else "absent" for model in report.plan.models]
    with store.as_owner():
        unverified = restore.sideload.unverified(report.plan)
    if not check_mode:
        restore.run(report, progress)
        if client:
            compare(client, params["store"], models)
    split = {"backup": sum(layer.size for layer in report.backup), "registry": sum(layer.size for layer in report.registry)}
    return {
        "changed": report.changed, "models": models, "snapshot": snapshot.id, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(snapshot.time)),
        **{f"{place}_bytes": count for place, count in split.items()}, "missing_bytes": report.plan.missing_bytes, "free_bytes": report.plan.free,
        "fetched_bytes": restore.sideload.fetched, "unverified_bytes": unverified,
        "diff": {
            "before": "".join(f"{model['name']} {digest}\n" for model, digest in zip(models, before)),
            "after": "".join(f"{model['name']} {model['digest']}\n" for model in models),
        },
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    began = time.monotonic()
    try:
        found = ensure(module.params, module.check_mode)
    except BackupError as error:
        module.fail_json(msg=str(error), kind=error.kind)
    except (OllamaError, StoreError, ValueError, OSError) as error:
        module.fail_json(msg=str(error), kind="other")
    module.exit_json(**found, seconds=round(time.monotonic() - began, 3))


if __name__ == "__main__":
    main()
