#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_model
short_description: Put models into the store of an Ollama instance, or delete them
version_added: 0.1.0
description:
  - Makes sure that models are present, in exactly the version that a lock names, or absent.
  - With O(method=sideload) the module fetches the layers itself, from mirrors, bundles and the registry, and puts them into the store of the
    instance. Each layer is compared with its digest, a pull that broke off goes on where it was, and a model appears when it is whole.
    Several pulls may run on one store.
  - Blobs that are there are trusted only when their bytes were compared with their digest once; the module keeps a journal of that. So the
    first run on a store that Ollama filled reads all blobs of the named models, and later runs read none.
  - Names are exact. V(llama3.2) means V(llama3.2:latest), and is not present because V(llama3.2:1b) is. Case does not matter.
  - When a manifest is replaced, the layers that only the old one named are left to the pruning that Ollama does at its start.
  - Registries are asked through the proxies of O(proxy), or without it through those of the environment (C(http_proxy), C(https_proxy),
    C(no_proxy)). O(sources) are hosts of the fleet and are never asked through a proxy.
  - Root acts as the owner of the store while it works there, when that is another user. So this user must be able to reach the store.
author:
  - gpufleet.ollama contributors (@gpufleet)
extends_documentation_fragment:
  - gpufleet.ollama.connection
attributes:
  check_mode:
    support: full
    description:
      - Nothing is fetched, written or deleted, and no registry or mirror is asked. An instance that does not answer is taken for one without
        models. What an absent name without an entry in the lock would bring is not known, see RV(unknown). Fails when the disk is too small, but
        not while there is no store, since its disk or another store may be mounted or moved there before the pull.
  diff_mode:
    support: full
    description: Shows the digest of each name before and after; that of a name without an entry in the lock is not known in check mode.
options:
  name:
    description: Names of the models, C([host/][namespace/]model[:tag]).
    type: list
    elements: str
    required: true
    aliases: [model]
  state:
    description:
      - V(present) brings the models that are missing or other than the lock says.
      - V(absent) deletes them through the API. Where no server runs, which is where O(url) is empty, it deletes their manifests and the blobs that
        no other manifest names from O(store), and fails while a manifest there cannot be read.
    type: str
    choices: [present, absent]
    default: present
  method:
    description:
      - V(sideload) fetches the models itself and writes to O(store), on the host that the module runs on.
      - V(api) has the server pull them, for instances whose store cannot be reached, and for private models, for which only the server has a
        key. The server cannot be held to a version, so with an entry in O(lock) the digest is compared after the pull.
    type: str
    choices: [sideload, api]
    default: sideload
  store:
    description: Directory of the models, as C(OLLAMA_MODELS) of the instance says. What is written belongs to the owner of its C(blobs).
    type: path
    default: /var/lib/ollama/models
  lock:
    description:
      - Entries of a lock file by the names of models. A name that has one gets that manifest, whatever its tag means in the registry by now.
      - Entries of other names than O(name) do no harm.
    type: dict
    default: {}
  sources:
    description:
      - Where to fetch from, in this order. The base URL of a mirror, or the absolute path of a directory on the host that is laid out as a store.
        A source that fails or has wrong bytes is followed by the next, and one where nothing answers is asked last from then on.
      - They are never asked through a proxy.
      - Mirrors are asked for the layers of all models, but for manifests only of V(registry.ollama.ai), since they know no other registry.
    type: list
    elements: str
    default: []
  upstream:
    description: Ask the registry in the name of the model when no source has something.
    type: bool
    default: true
  refresh:
    description:
      - Ask what the tag means now also when a model is present that has no entry in O(lock). Does nothing in check mode.
      - With O(upstream) the registry is asked first, since a mirror may hold what the tag meant before, and O(sources) only when the registry cannot be
        asked. A tag that the registry does not know is a failure then.
    type: bool
    default: false
  insecure:
    description: Speak plain HTTP to the registry in the name. It does not switch off certificate checks.
    type: bool
    default: false
  proxy:
    description:
      - Proxies for the registries, instead of those of the environment. C(http://[name:password@]host:port), whatever is asked through them.
      - Unlike a password in the environment of a task, one that is given here is on no command line.
      - With O(method=api) the server asks, through the proxies of its own environment.
    type: dict
    suboptions:
      https:
        description: For registries that are asked over HTTPS.
        type: str
      http:
        description: For registries that are asked over HTTP.
        type: str
      bypass:
        description: Hosts that are asked without a proxy, separated by commas, as C(no_proxy) has them.
        type: str
  connections:
    description: Connections to one source at the same time. 8 to 16 are right for the registry, 1 to 4 for a mirror nearby.
    type: int
    default: 8
  rate_limit:
    description: Most bytes in a second from the network, such as V(100M). Empty or V(0) is no limit.
    type: str
    default: ""
  reserve:
    description: Space that is left free on the disk of the store, such as V(10G). A pull that would take it is refused before its first byte.
    type: str
    default: 1G
  retries:
    description:
      - How often something is tried again that failed for the moment, without a byte in between. With O(method=api), how often a pull that
        broke off is started again.
    type: int
    default: 6
  stall_timeout:
    description: Seconds without a byte, or with less than 1 KiB in each of them, after which a connection is given up and made anew.
    type: int
    default: 60
  verify:
    description: Compare all blobs of the models with their digests, also those that were verified before, and replace bad ones.
    type: bool
    default: false
  chunk_size:
    description: Bytes of a piece. A pull that is killed loses at most this on each connection.
    type: int
    default: 8388608
  progress_path:
    description:
      - File that is rewritten during the pull, at most twice a second. JSON with C(model), C(completed) and C(total) (bytes of that model),
        C(rate) (bytes in a second), C(models_done) and C(models). Where it waits for another pull, C(model) says so.
    type: path
  url:
    description:
      - Base URL of the Ollama instance, as seen from the host that the module runs on.
      - After O(method=sideload) it must show each model with its digest. Empty when there is no server, as on a mirror; the registry is then told
        that the client is newer than any, so that it refuses none.
    type: str
    default: http://127.0.0.1:11434
"""

EXAMPLES = r"""
- name: Pull a model
  gpufleet.ollama.ollama_model:
    name: llama3.2:1b

- name: Bring the models of the lock file from a mirror, at most 100 MiB in a second
  gpufleet.ollama.ollama_model:
    name: [llama3.2:1b, all-minilm]
    lock: "{{ lookup('ansible.builtin.file', 'models.lock') | from_json }}"
    sources: [http://mirror.example.com:8140]
    upstream: false
    rate_limit: 100M

- name: Pull through a proxy that wants a password
  gpufleet.ollama.ollama_model:
    name: llama3.2:1b
    proxy:
      https: "http://fleet:{{ proxy_password }}@proxy.example.com:3128"
      bypass: .example.com

- name: Compare every blob with its digest and replace bad ones
  gpufleet.ollama.ollama_model:
    name: llama3.2:1b
    verify: true

- name: Delete a model of an instance on another port
  gpufleet.ollama.ollama_model:
    name: llama3.2:1b
    state: absent
    url: http://127.0.0.1:11435

- name: Delete a model of a mirror, where no server runs
  gpufleet.ollama.ollama_model:
    name: llama3.2:1b
    state: absent
    store: /srv/models
    url: ""
"""

RETURN = r"""
models:
  description: The models by the given order.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name as the instance shows it, with its tag.
      type: str
      returned: success
      sample: llama3.2:latest
    digest:
      description: SHA-256 of the manifest, 64 hex digits. Empty when the model is absent, or not known in check mode.
      type: str
      returned: success
      sample: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878
    size:
      description: Size in bytes. 0 when it is absent or not known.
      type: int
      returned: success
      sample: 1321098329
    changed:
      description: Whether this model was not as it had to be.
      type: bool
      returned: success
      sample: true
    source:
      description: Where the version comes from. V(locked) is O(lock), V(resolved) the registry or a source, V(present) what was there.
      type: str
      returned: success
      sample: locked
  sample:
    - name: llama3.2:1b
      digest: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878
      size: 1321098329
      changed: true
      source: locked
missing_bytes:
  description: Bytes of the layers that were missing, each counted once. 0 with O(method=api), where they are not known.
  type: int
  returned: success
  sample: 1321098329
fetched_bytes:
  description: Bytes that came over the network. 0 with O(method=api).
  type: int
  returned: success
  sample: 1321098329
hashed_bytes:
  description: Bytes of blobs that were there and were compared with their digest.
  type: int
  returned: success
  sample: 0
unverified_bytes:
  description: Bytes of blobs of these models that are in the store and were never compared with their digests. A run without check mode does it.
  type: int
  returned: success
  sample: 0
free_bytes:
  description: Bytes that were free on the disk of the store before. 0 with O(method=api).
  type: int
  returned: success
  sample: 812398911488
unknown:
  description: Names that have to be pulled, of which it is not known how many bytes that means.
  type: list
  elements: str
  returned: success
  sample: []
corrupt:
  description: Digests of blobs that were there with other bytes, and were replaced.
  type: list
  elements: str
  returned: success
  sample: []
seconds:
  description: Time that the module took.
  type: float
  returned: success
  sample: 93.4
kind:
  description:
    - What kind of failure it was. For example V(not-found), V(disk), V(digest), V(too-old), V(unauthorized), V(tls), V(unreachable), V(retries), or
      V(all-sources) when the sources failed in different ways.
  type: str
  returned: failure of a sideload
  sample: not-found
"""

import time
from contextlib import suppress
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.formatters import human_to_bytes

from ansible_collections.gpufleet.ollama.plugins.module_utils._client import (
    CONNECTION_SPEC,
    OllamaClient,
    OllamaError,
    OllamaUnreachable,
)
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import PROXY_SPEC, FetchError, Http, proxies_of
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Manifest
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import Name, parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._sideload import Lock, Model, Options, Progress, Sideload, names_of
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store, StoreError

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "list", "elements": "str", "required": True, "aliases": ["model"]},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "method": {"type": "str", "choices": ["sideload", "api"], "default": "sideload"},
    "store": {"type": "path", "default": "/var/lib/ollama/models"},
    "lock": {"type": "dict", "default": {}},
    "sources": {"type": "list", "elements": "str", "default": []},
    "upstream": {"type": "bool", "default": True},
    "refresh": {"type": "bool", "default": False},
    "insecure": {"type": "bool", "default": False},
    **PROXY_SPEC,
    "connections": {"type": "int", "default": 8},
    "rate_limit": {"type": "str", "default": ""},
    "reserve": {"type": "str", "default": "1G"},
    "retries": {"type": "int", "default": 6},
    "stall_timeout": {"type": "int", "default": 60},
    "verify": {"type": "bool", "default": False},
    "chunk_size": {"type": "int", "default": 8 << 20},
    "progress_path": {"type": "path"},
    **CONNECTION_SPEC,
}
LEAST = {"connections": 1, "retries": 0, "stall_timeout": 1, "chunk_size": 4096}
# the registry compares it with what a model needs; without a server there is none that could be too old
NO_SERVER_VERSION = "0.99.0"
NOTHING = {"missing_bytes": 0, "fetched_bytes": 0, "hashed_bytes": 0, "unverified_bytes": 0, "free_bytes": 0, "unknown": [], "corrupt": []}


class Server:
    """The models of an instance, changed through its API."""

    def __init__(self, params: dict[str, Any], check_mode: bool) -> None:
        if not params["url"]:
            raise ValueError("url is empty: method api needs an instance that answers")
        self.client = OllamaClient(params["url"], params["timeout"])
        self.params = params
        self.check_mode = check_mode

    def read(self) -> dict[str, dict[str, Any]]:
        """What /api/tags shows, by the keys of the names."""
        try:
            return tags(self.client)
        except OllamaUnreachable:
            if not self.check_mode:
                raise
            return {}

    def delete(self, names: list[Name]) -> dict[str, Any]:
        """Delete the models that are there."""
        there = self.read()
        for name in names:
            if name.key in there and not self.check_mode:
                self.client.delete(there[name.key]["name"])
        models = [entry(name, "", 0, name.key in there, "present") for name in names]
        return {**NOTHING, **result(models, [there.get(name.key, {}).get("digest", "") for name in names], "absent")}

    def pull(self, names: list[Name]) -> dict[str, Any]:
        """Have the server pull what is missing, or other than the lock says."""
        lock = Lock(self.params["lock"])
        wanted = [lock.manifest(name) for name in names]
        there = self.read()
        models = [self._ensure(name, manifest, there.get(name.key)) for name, manifest in zip(names, wanted)]
        unknown = [model["name"] for model in models if self.check_mode and model["changed"]]
        return {**NOTHING, **result(models, [there.get(name.key, {}).get("digest", "") for name in names]), "unknown": unknown}

    def _ensure(self, name: Name, manifest: Manifest | None, found: dict[str, Any] | None) -> dict[str, Any]:
        """Bring one model; its entry of the result."""
        source = "locked" if manifest else "present"
        if found and (found["digest"] == hexadecimal(manifest) if manifest else self.check_mode or not self.params["refresh"]):
            return entry(name, found["digest"], found["size"], False, source)
        source = "locked" if manifest else "resolved"
        if self.check_mode:
            return entry(name, hexadecimal(manifest), manifest.size if manifest else 0, True, source)
        self._pull(name.display)
        now = self.client.find(name.display)
        if not now:
            raise OllamaError(f"{name.display} was pulled without an error, but {self.client.url} does not list it")
        if manifest and now["digest"] != hexadecimal(manifest):
            raise OllamaError(
                f"{name.display} was pulled and has the digest {now['digest']}, but the lock says {hexadecimal(manifest)}: the registry means another "
                "version by this tag now. Make the lock again, or use method: sideload, which brings the version of the lock"
            )
        return entry(name, now["digest"], now["size"], not found or found["digest"] != now["digest"], source)

    def _pull(self, name: str) -> None:
        """Pull, and start again when it breaks off: Ollama resumes, and a digest mismatch heals on the next try."""
        for attempt in range(self.params["retries"] + 1):
            try:
                for _line in self.client.pull(name, self.params["insecure"]):
                    pass
                return
            except OllamaError as error:
                if "file does not exist" in str(error):
                    raise OllamaError(f"{error}: the registry has no such model or tag") from None
                if attempt == self.params["retries"]:
                    raise
                time.sleep(2**attempt)


class Files:
    """The models of a store on this host."""

    def __init__(self, params: dict[str, Any], check_mode: bool) -> None:
        self.params = params
        self.check_mode = check_mode
        self.client = OllamaClient(params["url"], params["timeout"]) if params["url"] else None
        options = Options(
            **{key: params[key] for key in ("sources", "upstream", "insecure", "connections", "chunk_size", "refresh", "verify")},
            rate=bytes_of(params, "rate_limit"),
            reserve=bytes_of(params, "reserve"),
        )
        self.store = Store(params["store"])
        self.sideload = Sideload(self.store, self._http, options)

    def _http(self) -> Http:
        version = self.client.version() if self.client else NO_SERVER_VERSION
        return Http(f"ollama/{version}", self.params["stall_timeout"], self.params["retries"], proxies=proxies_of(self.params["proxy"]))

    def ensure(self, names: list[Name]) -> dict[str, Any]:
        """Bring what is missing, or other than it should be."""
        # its directory may be root's alone
        progress = Progress(None if self.check_mode else self.params["progress_path"], len(names))
        with self.store.as_owner():
            return self._ensure(names, progress)

    def delete(self, names: list[Name]) -> dict[str, Any]:
        """Delete the models that are there, where no server does it."""
        with self.store.as_owner():
            self.store.check_manifests()
            there = [hexadecimal(self.store.read(name)) for name in names]
            for name in [] if self.check_mode else names:
                self.store.remove(name)
        models = [entry(name, "", 0, bool(digest), "present") for name, digest in zip(names, there)]
        return {**NOTHING, **result(models, there, "absent")}

    def _ensure(self, names: list[Name], progress: Progress) -> dict[str, Any]:
        plan = self.sideload.plan(names, Lock(self.params["lock"]), self.check_mode)
        models = [
            entry(model.name, hexadecimal(model.manifest), model.manifest.size if model.manifest else 0, model.changed, model.source) for model in plan.models
        ]
        if not self.check_mode:
            self.sideload.run(plan, progress)
            self._compare(models)
        elif not any(model["changed"] for model in models):
            # a server that is not there yet shows nothing yet
            with suppress(OllamaUnreachable):
                self._compare(models)
        return {
            **result(models, [before(model) for model in plan.models]),
            "missing_bytes": plan.missing_bytes,
            "fetched_bytes": self.sideload.fetched,
            "hashed_bytes": plan.hashed,
            "unverified_bytes": self.sideload.unverified(plan),
            "free_bytes": plan.free,
            "unknown": [model.name.display for model in plan.models if not model.manifest],
            "corrupt": plan.corrupt,
        }

    def _compare(self, models: list[dict[str, Any]]) -> None:
        """The server must show what is in the store."""
        shown = tags(self.client) if self.client else {}
        for model in models if self.client else []:
            found = shown.get(parse(model["name"]).key, {}).get("digest")
            if found != model["digest"]:
                raise OllamaError(
                    f"{model['name']} is in {self.params['store']} with the digest {model['digest']}, but {self.params['url']} shows "
                    f"{found or 'no such model'}: is store the OLLAMA_MODELS of this instance, and may it read it?"
                )


def tags(client: OllamaClient) -> dict[str, dict[str, Any]]:
    """What /api/tags shows, by the keys of the names."""
    found = {}
    for item in client.models():
        # a name that Ollama allows and we do not is never one that was asked for
        with suppress(ValueError):
            found[parse(item["name"]).key] = item
    return found


def entry(name: Name, digest: str, size: int, changed: bool, source: str) -> dict[str, Any]:
    """A model of the result."""
    return {"name": name.display, "digest": digest, "size": size, "changed": changed, "source": source}


def hexadecimal(manifest: Manifest | None) -> str:
    """The digest as /api/tags shows it, empty without a manifest."""
    return manifest.digest.partition(":")[2] if manifest else ""


def before(model: Model) -> str:
    """What the store had, for the diff."""
    incomplete = model.present and model.manifest and model.present.raw == model.manifest.raw and model.missing
    return hexadecimal(model.present) + (" (incomplete)" if incomplete else "")


def result(models: list[dict[str, Any]], was: list[str], nothing: str = "(to be pulled)") -> dict[str, Any]:
    """What all ways of doing it return. C(was): digests by the order of the models; C(nothing): what no digest means afterwards."""
    lines = [f"{model['name']} {text or 'absent'}\n" for model, text in zip(models, was)]
    after = [f"{model['name']} {model['digest'] or nothing}\n" for model in models]
    return {"changed": any(model["changed"] for model in models), "models": models, "diff": {"before": "".join(lines), "after": "".join(after)}}


def bytes_of(params: dict[str, Any], option: str) -> int:
    """A number of bytes such as V(100M). Raises ValueError."""
    try:
        return int(human_to_bytes(params[option].strip() or "0"))
    except ValueError:
        raise ValueError(f"{option} is {params[option]!r}: give a number of bytes such as 500M or 10G") from None


def ensure(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Bring the models into the wanted state. Returns the module's result."""
    if low := [f"{option} must be at least {least}" for option, least in LEAST.items() if params[option] < least]:
        raise ValueError("; ".join(low))
    names = names_of(params["name"])
    if params["state"] == "absent":
        return (Server if params["url"] else Files)(params, check_mode).delete(names)
    if params["method"] == "api":
        return Server(params, check_mode).pull(names)
    return Files(params, check_mode).ensure(names)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    began = time.monotonic()
    try:
        found = ensure(module.params, module.check_mode)
    except FetchError as error:
        module.fail_json(msg=str(error), kind=error.kind)
    except (OllamaError, StoreError, ValueError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**found, seconds=round(time.monotonic() - began, 3))


if __name__ == "__main__":
    main()
