# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Loads models into an instance of Ollama, so that the first request does not wait for it.

usage: warm.py CONFIG [--dry-run] [--wait SECONDS]
CONFIG is a JSON file: {"url": "http://127.0.0.1:11434", "models": [{"name": "llama3.2:1b", "keep_alive": "24h"}, ...]}, where
keep_alive is a number of seconds, a duration with a unit, or a negative number for ever; without it the instance decides.

Its last line is JSON: {"loaded": [...], "already": [...], "missing": [...], "failed": [{"name": ..., "error": ...}]}. It exits with 1
when a model could not be loaded, or when nothing answered.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import sys
import time
import urllib.error
import urllib.request
from typing import Any

WAIT_SECONDS = 120
ANSWER_SECONDS = 60
# Ollama itself gives up a load that stalls; hundreds of gigabytes from a slow disk do not
LOAD_SECONDS = 3600
# Ollama says for ever as now + 2^63 ns, about the year 2318
FOREVER_YEAR = 2200

# no proxy: the instance is this host's own
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class WarmError(Exception):
    """What went wrong, as a sentence."""


def ask(url: str, body: dict[str, Any] | None = None, timeout: float = ANSWER_SECONDS) -> dict[str, Any]:
    """The JSON object that the API answers; a body makes it a POST. WarmError when there is none, or an error."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with _opener.open(request, timeout=timeout) as response:
            answer = json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise WarmError(f"{url} answered {error.code}: {error_text(error)}") from None
    except (OSError, http.client.HTTPException) as error:
        raise WarmError(f"{url} does not answer: {error}") from None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise WarmError(f"{url} is no Ollama: its answer is not JSON")
    return answer


def error_text(error: urllib.error.HTTPError) -> str:
    """The API's own words."""
    try:
        raw = error.read()
        return str(json.loads(raw)["error"])
    except (OSError, http.client.HTTPException):
        return "(it broke off)"
    except (ValueError, KeyError, TypeError):
        return raw[:200].decode("utf-8", "replace").strip() or "(no text)"


def key(name: str) -> str:
    """The same for all spellings that Ollama takes for one model."""
    rest, slash, last = name.lower().rpartition("/")
    prefix = rest.split("/") if slash else []
    model, colon, tag = last.partition(":")
    return "/".join([*["registry.ollama.ai", "library"][: 2 - len(prefix)], *prefix, model, tag if colon else "latest"])


def keep_alive_of(value: Any) -> Any:
    """A keep_alive as the API takes it: unlike the environment variable it wants a number without a unit to be no text."""
    text = str(value).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def is_forever(expires_at: str) -> bool:
    """Whether an item of /api/ps stays until the instance stops."""
    year = re.match(r"\d{4}", expires_at)
    return bool(year) and int(year[0]) >= FOREVER_YEAR


class Instance:
    """One instance of Ollama."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def wait(self, seconds: float) -> None:
        """Until it answers; WarmError when it does not within the time."""
        until = time.monotonic() + seconds
        while True:
            try:
                ask(f"{self.url}/api/version")
                return
            except WarmError as error:
                if time.monotonic() >= until:
                    raise WarmError(f"no Ollama to load models into: {error}. See the journal of the instance") from None
            time.sleep(0.5)

    def items(self, path: str) -> dict[str, dict[str, Any]]:
        """Models of /api/tags or /api/ps, by key."""
        return {key(item["name"]): item for item in ask(self.url + path).get("models") or []}

    def show(self, name: str) -> dict[str, Any]:
        """What it says about a model; nothing when that is gone."""
        try:
            return ask(f"{self.url}/api/show", {"model": name})
        except WarmError:
            return {}

    def weights(self, name: str) -> str:
        """Path of the weights of a model; nothing when it is gone."""
        found = re.search(r"^FROM (.+)$", self.show(name).get("modelfile") or "", re.M)
        return found[1] if found else ""

    def runner(self, item: dict[str, Any]) -> dict[str, Any] | None:
        """The loaded model that serves an item of /api/tags: names that share weights share it, under the name that was loaded."""
        running = self.items("/api/ps")
        found = running.get(key(item["name"])) or next((other for other in running.values() if other.get("digest") == item.get("digest")), None)
        if found or not running:
            return found
        weights = self.weights(item["name"])
        return next((other for other in running.values() if weights and self.weights(other["name"]) == weights), None)

    def load(self, item: dict[str, Any], keep_alive: Any) -> None:
        """Load an item of /api/tags; of one that is loaded this sets the time that it stays."""
        body = {"model": item["name"]} if keep_alive is None else {"model": item["name"], "keep_alive": keep_alive}
        capabilities = item.get("capabilities")
        if capabilities is None:
            # before 0.30 only /api/show has them
            capabilities = self.show(item["name"]).get("capabilities") or []
        if "embedding" in capabilities and "completion" not in capabilities:
            ask(f"{self.url}/api/embed", {**body, "input": ""}, LOAD_SECONDS)
        else:
            ask(f"{self.url}/api/generate", {**body, "stream": False}, LOAD_SECONDS)


class Warming:
    """The models that are wanted, one after the other, and what became of them."""

    def __init__(self, instance: Instance, dry_run: bool) -> None:
        self.instance = instance
        self.dry_run = dry_run
        self.result: dict[str, list[Any]] = {"loaded": [], "already": [], "missing": [], "failed": []}

    def run(self, wanted: list[dict[str, Any]]) -> None:
        """Load what is in the store and not loaded."""
        stored = self.instance.items("/api/tags")
        staying = []
        for model in wanted:
            item, keep_alive = stored.get(key(model["name"])), model.get("keep_alive")
            keep_alive = None if keep_alive is None else keep_alive_of(keep_alive)
            forever = str(keep_alive).startswith("-")
            try:
                outcome = self.warm(item, keep_alive, forever)
            except WarmError as error:
                self.fail(model["name"], str(error))
                continue
            self.result[outcome].append(model["name"])
            if outcome == "loaded" and forever:
                staying.append((model["name"], item))
        if not self.dry_run:
            self.look_again(staying)

    def warm(self, item: dict[str, Any] | None, keep_alive: Any, forever: bool) -> str:
        """Load one model. Returns where it is listed."""
        if item is None:
            return "missing"
        # what runs elsewhere is not loaded here
        if item.get("remote_host") or item.get("remote_model"):
            return "already"
        running = self.instance.runner(item)
        if running and (not forever or is_forever(running.get("expires_at", ""))):
            return "already"
        if not self.dry_run:
            began = time.monotonic()
            self.instance.load(item, keep_alive)
            say(f"{item['name']} loaded in {time.monotonic() - began:.1f} s")
        return "loaded"

    def look_again(self, staying: list[tuple[str, Any]]) -> None:
        """To make room Ollama unloads also what was to stay for ever: without a word there would be a load in each run."""
        for name, item in staying:
            try:
                running = self.instance.runner(item)
            except WarmError as error:
                self.fail(name, str(error))
                continue
            if not running:
                self.result["loaded"].remove(name)
                self.fail(name, "it was unloaded for another one: the memory, or OLLAMA_MAX_LOADED_MODELS, does not hold all models that are to be warm")

    def fail(self, name: str, error: str) -> None:
        """Note a failure."""
        self.result["failed"].append({"name": name, "error": error})
        say(f"{name} failed: {error}")


def say(text: str) -> None:
    """A line for the journal, apart from the result."""
    print(f"warm: {text}", file=sys.stderr, flush=True)


def read(path: str) -> tuple[str, list[dict[str, Any]]]:
    """URL and models of the configuration; WarmError when it is none."""
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        url, models = config["url"], config["models"]
        if all(isinstance(model["name"], str) for model in models):
            return str(url), models
    except OSError as error:
        raise WarmError(f"{path} cannot be read ({error.strerror}): run the playbook again") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise WarmError(f"{path} is not the configuration of warm.py, with url and models: run the playbook again")


def main() -> int:
    """Wait for the instance, load, and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", metavar="CONFIG", help="the JSON file")
    parser.add_argument("--dry-run", action="store_true", help="load nothing; loaded are then those that would be")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help=f"how long to wait for an answer (default: {WAIT_SECONDS}, 0 with --dry-run)")
    options = parser.parse_args()
    seconds = options.wait if options.wait is not None else 0 if options.dry_run else WAIT_SECONDS
    try:
        url, wanted = read(options.config)
        warming = Warming(Instance(url), options.dry_run)
        try:
            warming.instance.wait(seconds)
        except WarmError:
            if not options.dry_run:
                raise
            # it is not installed yet: then all of them are to come
            warming.result["loaded"] = [model["name"] for model in wanted]
        else:
            warming.run(wanted)
    except WarmError as error:
        say(str(error))
        return 1
    for name in warming.result["missing"]:
        say(f"{name} is not in the store: skipped")
    print(json.dumps(warming.result))
    return 1 if warming.result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
