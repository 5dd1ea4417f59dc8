# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Models that are built on a host, from a model of its store or from GGUF files, and what they were built from.

Ollama keeps no definition of a model, and rewrites a GGUF file that it is given, so neither the model nor its digests tell whether it is
what is wanted. A record in the store does (C(.gpufleet/custom/)): the hash of the definition, and the digest that came of it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import tempfile
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from typing import IO, Any, Callable, Iterator, Mapping

from ansible.module_utils.common.text.formatters import human_to_bytes
from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError, OllamaUnreachable
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import Again, Connection, FetchError, Http, Pace, describe, receive, shown, split
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import display_name, parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import NoFile, Store, open_file, read_file

CUSTOM_DIR = "custom"
CHUNK = 1 << 20
# the file as it is uploaded, and the copy of it that Ollama makes
COPIES = 2
# longer texts are shown by their first line and their hash
SHOWN = 100

# Ollama's api/types.go, Options. It takes any name and any type, and leaves out what it does not know when the model runs
INTEGERS = (
    "num_ctx", "num_predict", "seed", "top_k", "repeat_last_n", "num_gpu", "main_gpu", "num_thread", "num_batch", "num_keep", "draft_num_predict",
)
FLOATS = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
PARAMETERS = (*INTEGERS, *FLOATS, "use_mmap", "stop")


class CustomError(Exception):
    """The model cannot be built; the text is for the user."""


# the definition

def typed_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in the types of JSON that Ollama wants, sorted by name: numbers in templates arrive as text. What is null is left out.

    Raises CustomError for a name that Ollama does not know and for a value that is of another type.
    """
    return {name: _typed(name, given[name]) for name in sorted(given) if given[name] is not None}


def _typed(name: str, value: Any) -> Any:
    if name not in PARAMETERS:
        near = difflib.get_close_matches(name, PARAMETERS, 1)
        hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(sorted(PARAMETERS))}"
        raise CustomError(f"Ollama knows no parameter {name}: {hint}")
    if name == "stop":
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    try:
        if name == "use_mmap":
            return boolean(value)
        if isinstance(value, bool):
            raise ValueError
        if name in INTEGERS:
            return int(value) if isinstance(value, float) and value.is_integer() else int(str(value))
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    except (TypeError, ValueError):
        kind = "true or false" if name == "use_mmap" else "a whole number" if name in INTEGERS else "a number"
        raise CustomError(f"the parameter {name} is {value!r} and must be {kind}") from None


def bytes_of(size: str) -> int:
    """Bytes of a size such as V(10G). CustomError when it is none."""
    try:
        return human_to_bytes(size)
    except ValueError:
        raise CustomError(f"reserve is {size!r} and must be a size, such as 10G") from None


class Weights:
    """A GGUF file: an absolute path of this host, or a URL of http or https with the SHA-256 (64 hex digits, perhaps with sha256: before).

    C(shown) is the place for messages, without a password and without a signature.
    """

    def __init__(self, place: str, sha256: str | None) -> None:
        self.place = place
        self.is_url = is_url(place)
        self.shown = shown(place) if "://" in place else place
        self.file: IO[bytes] | None = None
        pinned = (sha256 or "").lower().partition("sha256:")[2] or (sha256 or "").lower()
        if pinned and not re.fullmatch("[0-9a-f]{64}", pinned):
            raise CustomError(f"the sha256 of {self.shown} is {sha256!r} and must have 64 hex digits")
        if self.is_url and not pinned:
            raise CustomError(f"{self.shown} has no sha256: give that of the file, so that it is known what is built")
        if not self.is_url and not os.path.isabs(place):
            raise CustomError(f"{self.shown} is neither an absolute path of this host nor a URL of http or https")
        if self.is_url:
            _check_url(place)
        self.digest = f"sha256:{pinned}" if pinned else ""

    def close(self) -> None:
        """Close what was opened."""
        if self.file:
            self.file.close()

    def verify(self, known: Any) -> list[Any] | None:
        """Learn the digest of the file at the path, and compare it with the pinned one. C(known) is what this returned at an earlier time.

        It is opened once: whatever comes to the path meanwhile, what was hashed is what is sent. Returns size, time and inode of the file
        and the digest, to be remembered; None when there is nothing to read.
        """
        try:
            self.file = None if self.is_url else os.fdopen(open_file(self.place, os.O_RDONLY, follow=True), "rb")
        except FileNotFoundError:
            pass
        if not self.file:
            return None
        status = os.fstat(self.file.fileno())
        identity = [status.st_size, status.st_mtime_ns, status.st_ino]
        if isinstance(known, list) and known[:-1] == identity and isinstance(known[-1], str):
            digest = known[-1]
        else:
            if self.file.read(4) != b"GGUF":
                raise CustomError(f"{self.place} is no GGUF file: only those can be built from")
            digest = sha256_of(self.file)
        if self.digest and digest != self.digest:
            raise CustomError(f"{self.place} is not the file that was pinned: its SHA-256 is {digest[7:]} and should be {self.digest[7:]}")
        self.digest = digest
        return [*identity, digest]


def is_url(place: str) -> bool:
    """Whether the place of a file is a URL."""
    return bool(re.match("https?://", place, re.IGNORECASE))


def _check_url(url: str) -> None:
    try:
        split(url)
    except FetchError as error:
        raise CustomError(str(error)) from None
    # http.client would say so with the whole URL
    if re.search(r"[^!-~]", url):
        raise CustomError(f"{shown(url)} is no URL: write spaces and letters that are not ASCII as %XX")


def sha256_of(file: IO[bytes]) -> str:
    """SHA-256 of an open file as C(sha256:<hex>), from its beginning."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


class Definition:
    """All that decides what the model will be, from the options of the module, where what was not given is None.

    C(base) is the name of a model, empty when the model is made from C(weights). C(base_digest): 64 hex digits, set when it is known.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.name = display_name(params["name"])
        source = params["from"]
        from_file = "://" in source or source.startswith("/")
        self.base = "" if from_file else display_name(source)
        self.base_digest = ""
        if self.base and params["sha256"]:
            raise CustomError(f"sha256 is for files, and {self.base} is a model: the lock of models pins it")
        if self.base and parse(self.base).key == parse(self.name).key:
            raise CustomError(f"{self.name} cannot be built from itself: give it another name")
        self.weights = Weights(source, params["sha256"]) if from_file else None
        adapters = params["adapters"] or []
        if len(adapters) > 1:
            raise CustomError(f"{self.name} has {len(adapters)} adapters, and Ollama takes one")
        self.adapters = [Weights(item.get("path") or item.get("url"), item.get("sha256")) for item in adapters]
        self.fields = self._fields(params)

    @staticmethod
    def _fields(params: Mapping[str, Any]) -> dict[str, Any]:
        texts = params["license"] or []
        found = {
            "quantize": (params["quantize"] or "").upper(),
            "template": params["template"],
            "system": params["system"],
            "license": [str(text) for text in (texts if isinstance(texts, list) else [texts])],
            "parameters": typed_parameters(params["parameters"] or {}),
            "messages": [{"role": item["role"], "content": item["content"]} for item in params["messages"] or []],
        }
        return {key: value for key, value in found.items() if value}

    @property
    def files(self) -> list[Weights]:
        """All files that the model is made of."""
        return ([self.weights] if self.weights else []) + self.adapters

    @property
    def hash(self) -> str:
        """The same for all definitions that make the same model. Where a file lies is no part of it."""
        source = [self.base, self.base_digest] if not self.weights else [self.weights.digest]
        document = {"from": source, "adapters": [item.digest for item in self.adapters], **self.fields}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def request(self) -> dict[str, Any]:
        """The fields of C(/api/create), without the name. The names of files go into the manifest, so they are always the same."""
        source: dict[str, Any] = {"files": {"model.gguf": self.weights.digest}} if self.weights else {"from": self.base}
        adapters = {"adapters": {"adapter.gguf": item.digest for item in self.adapters}} if self.adapters else {}
        return {**source, **adapters, **self.fields}

    def text(self) -> str:
        """The definition for a diff."""
        source = f"{self.base} {self.base_digest or '(not there yet)'}" if not self.weights else _file_text(self.weights)
        lines = [f"name: {self.name}", f"from: {source}", *(f"adapter: {_file_text(item)}" for item in self.adapters)]
        for key, value in self.fields.items():
            if key == "parameters":
                lines += [f"parameter {name}: {json.dumps(value[name])}" for name in value]
            elif key == "messages":
                lines += [f"message of {item['role']}: {_shown(item['content'])}" for item in value]
            else:
                lines += [f"{key}: {_shown(item)}" for item in (value if isinstance(value, list) else [value])]
        return "".join(f"{line}\n" for line in lines)


def _file_text(weights: Weights) -> str:
    return weights.digest or f"{weights.shown} (not there yet)"


def _shown(text: str) -> str:
    first = text.strip().partition("\n")[0][:SHOWN]
    return first if first == text.strip() else f"{first} [...] (sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]})"


# the record

def record_path(store: Store, name: str) -> str:
    """Where the record of a model is, or would be; one for all spellings of its name."""
    # neither + nor @ is in a name
    file = display_name(name).lower().replace("/", "+").replace(":", "@")
    if len(file) > 200:
        file = hashlib.sha256(file.encode()).hexdigest()
    return os.path.join(store.private, CUSTOM_DIR, f"{file}.json")


def read_record(store: Store, name: str) -> dict[str, Any]:
    """What is on record of a model: hash, digest and base_digest (64 hex digits), text, files. Empty when there is none, or none that can be read."""
    try:
        found = json.loads(read_file(record_path(store, name)))
    except (FileNotFoundError, NotADirectoryError, NoFile, ValueError, RecursionError):
        return {}
    kinds = {"name": str, "hash": str, "digest": str, "base_digest": str, "text": str, "files": dict}
    whole = isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())
    return found if whole else {}


# the building

class Builder:
    """Brings one model of one instance into the state that a definition wants.

    Args: C(http), by which files are downloaded; C(store) of the instance; C(reserve), bytes that are to stay free; C(check_mode) builds and
    writes nothing. Files of the host are read as who runs this, the store is touched as its owner only.
    """

    def __init__(self, client: OllamaClient, http: Http, store: Store, definition: Definition, reserve: int, check_mode: bool) -> None:
        self.client = client
        self.http = http
        self.store = store
        self.definition = definition
        self.name = definition.name
        self.reserve = reserve
        self.check_mode = check_mode
        # bytes that Ollama and the files that are not uploaded yet will take
        self._owed = 0

    def ensure(self) -> dict[str, Any]:
        """Build the model when that is needed, and return the module's result. CustomError, OllamaError, StoreError, OSError."""
        try:
            return self._ensure()
        finally:
            for weights in self.definition.files:
                weights.close()

    def _ensure(self) -> dict[str, Any]:
        with self.store.as_owner():
            record = read_record(self.store, self.name)
        present = self._find(self.name)
        files = self._resolve(record.get("files", {}))
        wanted, digest = self.definition, present.get("digest", "")
        reason = self._reason(record, digest)
        if reason and not self.check_mode:
            present = self._build(files)
        elif not self.check_mode and files != record["files"]:
            self._write_record(present["digest"], files)
        return {
            "changed": bool(reason),
            "name": self.name,
            "digest": "" if reason and self.check_mode else present["digest"],
            "size": 0 if reason and self.check_mode else present["size"],
            "base_digest": wanted.base_digest,
            "reason": reason,
            "diff": {"before": self._before(record, digest), "after": wanted.text()},
        }

    def _find(self, name: str) -> dict[str, Any]:
        try:
            return self.client.find(name) or {}
        except OllamaUnreachable:
            if not self.check_mode:
                raise
            return {}

    def _resolve(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Learn the digests of what the model is built from. Returns what is to be remembered of its files, by path."""
        wanted, files = self.definition, {}
        if wanted.base:
            base = self._find(wanted.base)
            if not base and not self.check_mode:
                raise CustomError(
                    f"{wanted.base}, which {self.name} is built from, is not in the store of {self.client.url}: put it into ollama_models, or pull it before"
                )
            wanted.base_digest = base.get("digest", "")
        for weights in wanted.files:
            found = weights.verify(known.get(weights.place))
            if found:
                files[weights.place] = found
            elif not weights.is_url and not self.check_mode:
                raise CustomError(f"there is no file {weights.place} on this host, which {self.name} is built from: put it there before")
        return files

    def _reason(self, record: Mapping[str, Any], digest: str) -> str:
        """Why the model has to be built; empty when it is as it should be."""
        wanted = self.definition
        if wanted.base and not wanted.base_digest:
            return f"{wanted.base} is not there yet"
        missing = next((item.shown for item in wanted.files if not item.digest), "")
        if missing:
            return f"{missing} is not there yet"
        if not digest:
            return "it is absent"
        if not record:
            return "there is no record of how it was built"
        if record["digest"] != digest:
            return "it was changed by another hand"
        if record["base_digest"] != wanted.base_digest:
            return "what it is built from has changed"
        return "" if record["hash"] == wanted.hash else "its definition has changed"

    def _before(self, record: Mapping[str, Any], digest: str) -> str:
        if not digest:
            return f"{self.name} absent\n"
        if not record:
            return f"{self.name} {digest}, built in an unknown way\n"
        if record["digest"] != digest:
            return f"{record['text']}changed by another hand: {record['digest']} was built, and {digest} is there\n"
        return str(record["text"])

    def _build(self, files: dict[str, Any]) -> dict[str, Any]:
        """Build it, remember how, and return its item of C(/api/tags)."""
        self._check_store()
        # one build at a time in a store, lest one deletes what another one has uploaded and not used yet
        with self._lock(CUSTOM_DIR):
            needed = {item.digest: item for item in self.definition.files if not self.client.has_blob(item.digest)}
            self._check_space(needed)
            for weights in needed.values():
                self._provide(weights)
            for _line in self.client.create(self.name, **self.definition.request()):
                pass
            self._drop(needed)
            found = self._find(self.name)
            if not found:
                raise OllamaError(f"{self.name} was built without an error, but {self.client.url} does not list it")
            self._write_record(found["digest"], files)
        return found

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with ExitStack() as stack:
            with self.store.as_owner():
                self.store.make_directories()
                stack.enter_context(self.store.lock(name))
            yield

    def _check_store(self) -> None:
        """Stop where the store that was given is not that of the server: the record would lie where it does not belong."""
        with self.store.as_owner():
            base = self.store.read(parse(self.definition.base)) if self.definition.base else None
            fits = base.digest == f"sha256:{self.definition.base_digest}" if base else not self.definition.base and os.path.isdir(self.store.blobs)
        if not fits:
            raise self._foreign_store()

    def _foreign_store(self) -> CustomError:
        return CustomError(f"{self.store.path} is not the store of {self.client.url}: give its OLLAMA_MODELS")

    def _check_space(self, needed: Mapping[str, Weights]) -> None:
        """Before the first byte, with all sizes that are known; those of files at a URL come with them."""
        for weights in self.definition.files:
            if weights.file:
                self._owed += os.fstat(weights.file.fileno()).st_size * (COPIES if weights.digest in needed else COPIES - 1)
            elif weights.digest not in needed:
                with self.store.as_owner():
                    self._owed += (self.store.blob_size(weights.digest) or 0) * (COPIES - 1)
        if self.definition.files:
            self._check_room(0, 0)

    def _check_room(self, done: int, size: int) -> None:
        """Whether a file of C(size) bytes still fits, of which C(done) are there; a size of 0 is one that is not known."""
        need = self._owed + COPIES * max(size, done) - done + self.reserve
        free = self.store.free()
        if need > free:
            raise CustomError(
                f"the disk of {self.store.path} is too full to build {self.name}: {need / 1e9:.1f} GB are needed, "
                f"{self.reserve / 1e9:.1f} GB of them as a reserve, and {free / 1e9:.1f} GB are free"
            )

    def _provide(self, weights: Weights) -> None:
        """Bring a file into the store as a blob."""
        with ExitStack() as stack:
            if not weights.file:
                with self.store.as_owner():
                    # it has no name, so nobody else can touch it, and it goes with this process
                    weights.file = stack.enter_context(tempfile.TemporaryFile(dir=self.store.staging))
                download(self.http, weights, self._check_room)
                self._owed += os.fstat(weights.file.fileno()).st_size * COPIES
            self.client.upload_blob(weights.digest, weights.file)
            self._owed -= os.fstat(weights.file.fileno()).st_size
        with self.store.as_owner():
            if self.store.blob_size(weights.digest) is None:
                raise self._foreign_store()

    def _drop(self, digests: Mapping[str, Weights]) -> None:
        """Delete what was uploaded and is not used: Ollama, from 0.30 on, stores a copy of the model that it has rewritten."""
        # so that no pull writes a manifest which names them meanwhile
        with self._lock("manifests"), self.store.as_owner():
            used, broken = self.store.used()
            for digest in digests:
                if not broken and digest not in used:
                    with suppress(FileNotFoundError):
                        os.unlink(self.store.blob_path(digest))

    def _write_record(self, digest: str, files: dict[str, Any]) -> None:
        """Remember what was built. It comes last: without it the model is built again."""
        wanted = self.definition
        path = record_path(self.store, self.name)
        record = {
            "name": self.name, "hash": wanted.hash, "digest": digest, "base_digest": wanted.base_digest, "text": wanted.text(), "files": files,
        }
        with self.store.as_owner():
            self.store.make_directories()
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(path))
                os.chmod(os.path.dirname(path), 0o755)
            self.store.write(path, json.dumps(record, indent=1, sort_keys=True).encode())


# files from elsewhere

def download(http: Http, weights: Weights, check_room: Callable[[int, int], None]) -> None:
    """Download a file into C(weights.file), and compare it with the digest. A download that breaks off is begun anew; wrong bytes are not.

    C(check_room) is called before each piece, with the bytes that are there and the size of all, 0 when nobody says it.
    """
    try:
        found = http.again(lambda: _fetch(http, weights, check_room))
    except FetchError as error:
        raise CustomError(f"{weights.shown} cannot be downloaded: {error}") from None
    if found != weights.digest:
        raise CustomError(
            f"{weights.shown} is not the file that was pinned: its SHA-256 is {found[7:]} and should be {weights.digest[7:]}. Nothing was built"
        )


def _fetch(http: Http, weights: Weights, check_room: Callable[[int, int], None]) -> str:
    """One try. Returns the digest; Again when it broke off."""
    digest, done, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
    weights.file.seek(0)
    weights.file.truncate()
    with closing(Connection(http)) as connection:
        response, _url = http.follow(connection, weights.place, {})
        size, pace = response.length or 0, Pace(http.timeout, weights.place)
        while count := _receive(response, buffer, weights):
            pace.came(count)
            check_room(done, size)
            digest.update(buffer[:count])
            done += weights.file.write(buffer[:count])
    if done < size:
        raise Again(f"{weights.shown} broke off: {done} of {size} bytes came")
    return f"sha256:{digest.hexdigest()}"


def _receive(response: HTTPResponse, buffer: memoryview, weights: Weights) -> int:
    try:
        return receive(response, buffer)
    except (HTTPException, OSError, ValueError) as error:
        raise Again(f"{weights.shown} broke off: {describe(error)}") from None
