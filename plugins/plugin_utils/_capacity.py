# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Whether the models of a host fit onto its disks and into its memory, before anything is pulled.

Sources: what Ollama gives to llama-server, and when it throws a loaded model out, are in its llm/llama_server.go and server/sched.go;
what llama-server allocates is in llama.cpp's src/llama-kv-cache.cpp and src/llama-kv-cache-iswa.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.gpufleet.ollama.plugins.module_utils._names import display_name, parse

GIB = 2**30
_MIB = 2**20
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# bytes and elements of a block: ggml-common.h, block_q8_0 and block_q4_0
_BLOCKS = {"f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}
# llama.cpp allocates the KV cache in steps of so many tokens
_STEP = 256
# tokens that are computed at once: what Ollama takes when memory is short
_BATCH = 512
_EMBEDDING_BATCH = 2048
# of every that many layers the last sees the whole context, the others only the sliding window: set_swa_pattern() in llama.cpp
_WINDOW_PERIODS = {"cohere2": 4, "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "gptoss": 2}
# of every that many layers the last has a KV cache, the others a small state of fixed size
_ATTENTION_PERIODS = {"qwen35": 4, "qwen35moe": 4, "qwen3next": 4}
# Ollama serves them one request at a time
_SERIAL = (
    "mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni"
)
_WITHOUT_CACHE = ("bert", "gemma-embedding", "t5encoder")
# the largest vocabulary in common use, for a header that does not say it
_VOCABULARY = 262144
# what a process needs on a GPU besides llama.cpp's buffers: the CUDA context and the work spaces of its libraries; an allowance
_PROCESS_BYTES = 512 * _MIB
# without the libraries of a GPU
_HOST_PROCESS_BYTES = 64 * _MIB
# llama.cpp rather leaves layers to the CPU than less than that on a GPU: fit_params_target in its common/common.h
_FIT_TARGET = 1024
_WEIGHTS = ("model", "projector", "adapter", "tensor", "draft")
_LOCK = "lock it with the playbook gpufleet.ollama.lock"
_WARN = "set ollama_capacity_check to warn"


def kv_cache_bytes(metadata: Mapping[str, Any], tokens: int, cache_type: str = "f16", parallel: int = 1, batch: int = _BATCH) -> int:
    """The KV cache of a model, in bytes; 0 when the metadata does not say its shape, or the model has none.

    Args: C(metadata) as an entry of a lock holds it, the C(tokens) of all requests together, f16, q8_0 or q4_0, the number of requests
    in parallel, and the tokens that are computed at once.

    The sum over the layers of tokens x head_count_kv x (key_length + value_length) x bytes of an element, which are 2 in f16, 34/32 in
    q8_0 and 18/32 in q4_0 (a block of 32 elements and its scale). Without key_length it is embedding_length / head_count, and so is
    value_length. Source: llama.cpp's src/llama-kv-cache.cpp; Ollama's documentation says about 1/2 and 1/4 for the quantized types.

    - Layers with a sliding window hold the window and a batch, for each request, in steps of 256 tokens (src/llama-kv-cache-iswa.cpp).
      Which ones they are is known by sliding_window_pattern or by the architecture; where it is neither, every layer is counted with the
      whole context, an upper bound. So it is for architectures that llama.cpp runs without their window, such as llama and phi3.
    - Models with latent attention (deepseek2 with key_length_mla) hold one latent vector of key_length, 512 + 64, and no values. Older
      files of them are without key_length_mla, and hold all heads.
    - Layers without heads, and those that full_attention_interval leaves out, have a state of fixed size instead, which is not counted: some
      MiB each, for which the allowance in C(model_memory) has to do.
    - Encoders such as bert have none. Embedding models that were made from a decoder have one, like others.
    """
    size, block = _BLOCKS.get(cache_type, _BLOCKS["f16"])
    window = parallel * _padded(min(-(-tokens // parallel), (metadata.get("sliding_window") or 0) + batch))
    return sum((min(window, tokens) if sliding else tokens) * elements for elements, sliding in _layers(metadata)) * size // block


def _padded(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP


def _layers(metadata: Mapping[str, Any]) -> Iterator[tuple[int, bool]]:
    """Of each layer with a KV cache the elements that a token has in it, and whether it is one with a sliding window."""
    architecture, count = metadata.get("architecture") or "", metadata.get("block_count") or 0
    if not _has_shape(metadata) or any(part in architecture for part in _WITHOUT_CACHE):
        return
    heads = _each(metadata.get("head_count_kv", metadata["head_count"]), count)
    interval = metadata.get("full_attention_interval") or _ATTENTION_PERIODS.get(architecture, 1)
    windows = _windows(metadata, count)
    # the last layers use the cache of earlier ones
    for layer in range(count - (metadata.get("shared_kv_layers") or 0)):
        if (layer + 1) % interval == 0:
            yield heads[layer] * _head_elements(metadata, windows[layer]), windows[layer]


def _has_shape(metadata: Mapping[str, Any]) -> bool:
    return bool(metadata.get("block_count") and metadata.get("head_count") and (metadata.get("key_length") or metadata.get("embedding_length")))


def _each(value: Any, count: int) -> list[int]:
    """The value of each layer, of one for all or of a list."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [*values, *values[-1:] * count][:count]


def _windows(metadata: Mapping[str, Any], count: int) -> list[bool]:
    """Of each layer whether it sees a sliding window only."""
    pattern = metadata.get("sliding_window_pattern") or _WINDOW_PERIODS.get(metadata.get("architecture") or "", 1)
    if not metadata.get("sliding_window"):
        pattern = 1
    if isinstance(pattern, (list, tuple)):
        return [bool(sliding) for sliding in _each(pattern, count)]
    return [layer % pattern < pattern - 1 for layer in range(count)]


def _head_elements(metadata: Mapping[str, Any], sliding: bool) -> int:
    """The elements of a token in one head, keys and values."""
    default = (metadata.get("embedding_length") or 0) // max(1, *_each(metadata["head_count"], metadata["block_count"]))
    key, value = metadata.get("key_length") or default, metadata.get("value_length") or default
    if metadata.get("key_length_mla"):
        value = 0
    if sliding:
        key, value = metadata.get("key_length_swa") or key, metadata.get("value_length_swa") or value
    return key + value


def model_memory(  # pylint: disable=too-many-arguments,too-many-positional-arguments
    metadata: Mapping[str, Any],
    weights_bytes: int,
    context: int,
    parallel: int = 1,
    cache_type: str = "f16",
    batch: int = _BATCH,
    flash_attention: bool = True,
) -> dict[str, int]:
    """The memory that a loaded model takes on one GPU, in bytes: weights, kv, compute and their total; context and parallel as Ollama takes them.

    Args: see kv_cache_bytes; C(context) is that of one request. Ollama caps it at the model's own context_length, and serves embedding
    models and some architectures one request at a time.

    C(compute) is an estimate of llama.cpp's compute buffer and an allowance of 512 MiB for the process on the GPU. The buffer holds the
    logits and the last state of a batch in f32, 4 x batch x (vocabulary_size + embedding_length), and the mask of the attention in f16,
    2 x batch x context. Without flash attention it holds the scores of all heads instead, when they are more:
    4 x batch x (1 + 4 x embedding_length + context x (1 + head_count)). Source: GraphSize() in Ollama's fs/ggml/ggml.go, and logs of llama.cpp.
    Images and sound take more, and it is not counted.
    """
    embedding = "pooling_type" in metadata
    if embedding or metadata.get("architecture") in _SERIAL:
        parallel = 1
    context = min(context, metadata.get("context_length") or context)
    if embedding:
        batch = min(_EMBEDDING_BATCH, context)
    kv = kv_cache_bytes(metadata, _padded(context) * parallel, cache_type, parallel, batch)
    compute = _buffer_bytes(metadata, context, batch, flash_attention) + _PROCESS_BYTES
    return {"weights": weights_bytes, "kv": kv, "compute": compute, "total": weights_bytes + kv + compute, "context": context, "parallel": parallel}


def _buffer_bytes(metadata: Mapping[str, Any], context: int, batch: int, flash_attention: bool) -> int:
    width = metadata.get("embedding_length") or 0
    vocabulary = 0 if "pooling_type" in metadata else metadata.get("vocabulary_size") or _VOCABULARY
    result = 4 * batch * (vocabulary + width)
    if flash_attention:
        return result + 2 * batch * context
    heads = max(0, *_each(metadata.get("head_count") or 0, metadata.get("block_count") or 1))
    return max(result, 4 * batch * (1 + 4 * width + context * (1 + heads)))


def default_context(vram_bytes: int) -> int:
    """The context that Ollama takes when nothing is said, by the memory of all GPUs of a server less their overhead. Source: Serve() in server/routes.go."""
    if vram_bytes >= 47 * GIB:
        return 262144
    return 32768 if vram_bytes >= 23 * GIB else 4096


class _Model(NamedTuple):
    """A model of the manifest; weights is None when their size is not known."""

    name: str
    key: str
    warm: bool
    # the same for all models that share the file of their weights
    root: str
    weights: int | None
    metadata: Mapping[str, Any]
    num_ctx: int
    adapters: str
    # why the size is not known
    unknown: str
    # in a store already
    there: bool


# what has no known limit has room for all
_NOT_KNOWN = 1 << 62


class _Place(NamedTuple):
    """Where an instance loads its models: bytes in all, in words, and of each GPU its number and bytes (none for the host's memory)."""

    total: int
    words: str
    owner: str
    cards: dict[int, int]
    overhead: int
    # bytes of the host's memory that a model may use too which the GPUs cannot hold
    beside: int = 0


class _Load(NamedTuple):
    """A model that is loaded: its memory in bytes, and what has to stay free beside it."""

    model: _Model
    memory: dict[str, int]
    cache_type: str
    spare: int

    @property
    def total(self) -> int:
        """All that it takes, in bytes."""
        return self.memory["total"]


class _Instance(NamedTuple):
    """An instance with its place and what it loads: each model alone, and the warm ones together, each file of weights once."""

    name: str
    item: Mapping[str, Any]
    place: _Place
    models: list[_Model]
    alone: list[_Load]
    together: list[_Load]

    @property
    def spare(self) -> int:
        """What has to stay free beside all warm models."""
        largest = max((load.total for load in self.together), default=0)
        # Ollama throws models out before it loads another one that takes more than 80 % of what is free on the GPUs
        crowded = largest // 4 if self.place.cards and len(self.together) > 1 else 0
        return max([crowded, *(load.spare for load in self.together)])


def capacity_report(  # pylint: disable=too-many-arguments,too-many-positional-arguments
    fleet_instances: Iterable[Mapping[str, Any]],
    models: Iterable[Mapping[str, Any]],
    lock: Mapping[str, Any] | None,
    stores: Iterable[Mapping[str, Any]],
    memory_bytes: int,
    gpus: Mapping[str, Any] | None = None,
    reserve_bytes: int = 0,
    pending: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Whether the models of a host fit onto its disks and into its memory.

    Args: the host's completed instances; the checked manifest; the C(models) of its lock, name -> entry; the results of
    M(gpufleet.ollama.ollama_model_info), one for each store that this host writes; its memory in bytes; what M(gpufleet.ollama.gpu_info) says
    of it; what has to stay free on each disk, in bytes; and the paths of C(pending) stores, whose disk is not there yet.
    Returns lines, a table of the disks and of every model on every instance, problems, a sentence with the mend for each row that does not fit,
    and warnings, the same for cold models that run partly on the CPU when somebody asks for them, or that are there already.

    An instance has the memory of its GPUs, less OLLAMA_GPU_OVERHEAD for each; where the driver does not tell it, the check cannot say no. An
    instance without GPUs has its memory_max, or else the host's memory. Each model has to fit by itself, and all warm models of an instance
    together. The type of the KV cache counts unless flash attention is off, which it needs.
    """
    found = list(stores)
    known = _known(lock or {}, found)
    there = {_key(model["name"]) for store in found for model in store.get("models") or []}
    resolved = _resolved([entry for entry in models if entry.get("state", "present") == "present"], known, there)
    loaded = [_loaded(item, resolved, _place(item, memory_bytes, gpus or {})) for item in fleet_instances]
    disk: list[tuple[str, ...]] = []
    memory: list[tuple[str, ...]] = []
    problems: list[str] = []
    for store in found:
        _add(_disk(store, reserve_bytes, pending), disk, problems)
    for instance in loaded:
        for part in (_rows_alone(instance), _row_together(instance)):
            _add(part, memory, problems)
        problems += [*_too_many(instance), *_thrown_out(instance)]
    _add(_rows_shared(loaded, memory_bytes), memory, problems)
    warnings = [sentence for sentence in problems if isinstance(sentence, _Warning)]
    stops = [sentence for sentence in problems if not isinstance(sentence, _Warning)]
    return {"lines": [*_table(disk), *_table(memory)], "problems": stops, "warnings": [str(sentence) for sentence in warnings]}


class _Warning(str):
    """A sentence about a model that is no reason to stop."""


_Rows = list[tuple[tuple[str, ...], str]]


def _add(part: _Rows, rows: list[tuple[str, ...]], problems: list[str]) -> None:
    for row, problem in part:
        rows.append(row)
        problems += [problem] if problem else []


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _verdict(fits: bool) -> str:
    return "fits" if fits else "does not fit"


def _either(mends: Sequence[str]) -> str:
    return f"{', '.join(mends[:-1])} or {mends[-1]}" if len(mends) > 1 else mends[0]


def _key(name: Any) -> str:
    """The same for all spellings of a name; empty for what is none, such as a path or a URL."""
    try:
        return parse(name).key
    except ValueError:
        return ""


def _known(lock: Mapping[str, Any], stores: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, Mapping[str, Any]]]:
    """Of each model that is locked or there, the bytes of its weights and its metadata; what is to be pulled is in the lock."""
    result: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for model in (model for store in stores for model in store.get("models") or []):
        result[_key(model["name"])] = (model.get("weights_bytes") or 0, model.get("metadata") or {})
    for name, entry in lock.items():
        weights = sum(layer["size"] for layer in entry.get("layers") or [] if layer["kind"] in _WEIGHTS)
        there = result.get(_key(name), (0, {}))
        result[_key(name)] = (weights or there[0], entry.get("metadata") or there[1])
    return {key: value for key, value in result.items() if key and value[0]}


def _resolved(entries: Sequence[Mapping[str, Any]], known: Mapping[str, tuple[int, Mapping[str, Any]]], there: set[str]) -> list[_Model]:
    by_key = {_key(entry["name"]): entry for entry in entries}
    return [_model(entry, by_key, known, there) for entry in entries]


def _model(
    entry: Mapping[str, Any], by_key: Mapping[str, Mapping[str, Any]], known: Mapping[str, tuple[int, Mapping[str, Any]]], there: set[str]
) -> _Model:
    chain = [entry]
    while (base := by_key.get(_key(_source(chain[-1])))) and base not in chain:
        chain.append(base)
    source = _source(chain[-1])
    # a model that was made of the same weights has the size of its base, also before it is made
    keys = [_key(source), *(_key(link["name"]) for link in reversed(chain))]
    weights, metadata = next((known[key] for key in keys if key in known), (None, {}))
    contexts = (int((_definition(link).get("parameters") or {}).get("num_ctx") or 0) for link in chain)
    return _Model(
        name=display_name(entry["name"]),
        key=_key(entry["name"]),
        warm=bool(entry.get("warm")),
        root=_key(source) or source or _key(chain[-1]["name"]),
        weights=weights,
        metadata=metadata,
        num_ctx=next((context for context in contexts if context), 0),
        adapters=str(_definition(entry).get("adapters") or ""),
        unknown="it is known when the model is made" if source or _definition(chain[-1]) else _LOCK,
        there=_key(entry["name"]) in there,
    )


def _definition(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry.get("definition") or {}


def _source(entry: Mapping[str, Any]) -> str:
    """What a model has its weights from; empty for one with weights of its own."""
    definition = _definition(entry)
    return "" if definition.get("quantize") else str(definition.get("from") or "")


def _place(item: Mapping[str, Any], memory_bytes: int, gpus: Mapping[str, Any]) -> _Place:
    cards = list(enumerate(gpus.get("gpus") or []))
    wanted = item["gpus"]
    mine = cards if wanted == "all" else [(number, card) for number, card in cards if wanted != "none" and card.get("uuid") in wanted]
    sizes = {number: card.get("memory_bytes") or 0 for number, card in mine}
    if sizes and all(sizes.values()) and (wanted == "all" or len(sizes) == len(wanted)):
        overhead = int(item["environment"].get("OLLAMA_GPU_OVERHEAD", 0))
        return _Place(max(0, sum(sizes.values()) - overhead * len(sizes)), "GPU memory", "its GPUs have", sizes, overhead, memory_bytes)
    if mine or not isinstance(wanted, str):
        # before the driver is there, or slices of a GPU
        return _Place(_NOT_KNOWN, "GPU memory, size not known", "its GPUs have", {}, 0)
    limit = item.get("memory_max")
    if limit:
        return _Place(int(limit.rstrip("KMGT")) * _UNITS.get(limit[-1], 1), "memory_max", "its memory_max is", {}, 0)
    return _Place(memory_bytes, "host memory", "the host has", {}, 0)


def _loaded(item: Mapping[str, Any], models: Iterable[_Model], place: _Place) -> _Instance:
    served = None if item["models"] == "all" else {_key(name) for name in item["models"]}
    mine = [model for model in models if served is None or model.key in served]
    there = [model for model in mine if model.weights is not None]
    warm = sorted((_load(model, item, place, True) for model in there if model.warm), key=lambda load: load.total)
    # Ollama knows a loaded model by the file of its weights; the largest context wins here
    together = list({load.model.root: load for load in warm}.values())
    return _Instance(item["name"], item, place, mine, [_load(model, item, place) for model in there], together)


def _load(model: _Model, item: Mapping[str, Any], place: _Place, roomy: bool = False) -> _Load:
    """A model as an instance loads it; roomy with the batch that Ollama takes when there is still room."""
    variables = item["environment"]
    flash = variables.get("OLLAMA_FLASH_ATTENTION") != "0"
    cache_type = variables.get("OLLAMA_KV_CACHE_TYPE", "f16") if flash else "f16"
    parallel = int(variables.get("OLLAMA_NUM_PARALLEL", 1))

    def taken(batch: int) -> dict[str, int]:
        return model_memory(model.metadata, model.weights or 0, _context(model, item, place), parallel, cache_type, batch, flash)

    memory = taken(_BATCH)
    if roomy:
        memory = taken(_batch(memory["context"] * memory["parallel"]))
    if not place.cards:
        lighter = _PROCESS_BYTES - _HOST_PROCESS_BYTES
        memory = {**memory, "compute": memory["compute"] - lighter, "total": memory["total"] - lighter}
    used = 1
    if place.cards and (variables.get("OLLAMA_SCHED_SPREAD") == "1" or memory["total"] > max(place.cards.values())):
        # then it goes onto all GPUs, and each has buffers
        used = len(place.cards)
        memory = {**memory, "compute": used * memory["compute"], "total": memory["total"] + (used - 1) * memory["compute"]}
    target = int(variables.get("LLAMA_ARG_FIT_TARGET", _FIT_TARGET)) * _MIB if variables.get("LLAMA_ARG_FIT") != "off" else 0
    return _Load(model, memory, cache_type, max(0, target - place.overhead) * used if place.cards else 0)


def _context(model: _Model, item: Mapping[str, Any], place: _Place) -> int:
    """The context of a request, as far as the model has it."""
    context = model.num_ctx or int(item["environment"].get("OLLAMA_CONTEXT_LENGTH", 0)) or default_context(place.total if place.cards else 0)
    return min(context, model.metadata.get("context_length") or context)


def _batch(tokens: int) -> int:
    """The tokens that Ollama computes at once while there is room: generationBatchForContext() in server/sched.go."""
    if tokens > 32768:
        return 2048
    return 1024 if tokens > 4096 else _BATCH


def _disk(store: Mapping[str, Any], reserve: int, pending: Sequence[str]) -> _Rows:
    # the result of a loop has the store in its item
    path, missing, free = store.get("store") or store["item"]["store"], store["missing_bytes"], store["free_bytes"]
    if path in pending:
        return [(("disk  ", path, f"needs {_gb(missing)} + {_gb(reserve)} reserve", "size not known before it is mounted or adopted", ""), "")]
    # who has all must not free a reserve
    fits = not missing or missing + reserve <= free
    problem = "" if fits else (
        f"{path}: {_gb(missing)} of models are to come, {_gb(reserve)} are to stay free, and {_gb(free)} are free: "
        f"free some, take models out of ollama_models, choose a larger disk or {_WARN}"
    )
    result: _Rows = [(("disk  ", path, f"needs {_gb(missing)} + {_gb(reserve)} reserve", f"has {_gb(free)}", _verdict(fits)), problem)]
    names = ", ".join(store.get("unknown") or [])
    if names:
        result.append((("disk  ", path, f"size of {names} not known: {_LOCK}", "", "not known"), ""))
    return result


def _rows_alone(instance: _Instance) -> _Rows:
    by_key = {load.model.key: load for load in instance.alone}
    return [_row_alone(instance, by_key[model.key]) if model.key in by_key else (_row_unknown(instance, model), "") for model in instance.models]


def _row_unknown(instance: _Instance, model: _Model) -> tuple[str, ...]:
    return ("memory", f"instance {instance.name}", model.name, f"size not known: {model.unknown}", "", "not known")


def _row_alone(instance: _Instance, load: _Load) -> tuple[tuple[str, ...], str]:
    place, memory = instance.place, load.memory
    fits = load.total + load.spare <= place.total
    tokens = f"{memory['context']} x {memory['parallel']}"
    cache = f"{_gib(memory['kv'])} KV cache ({tokens}, {load.cache_type})" if _has_shape(load.model.metadata) else "KV cache not known"
    need = f"{_gib(memory['weights'])} weights + {cache} + {_gib(memory['compute'])} buffers{_to_spare(load.spare)}"
    of_it = f", {_gib(memory['kv'])} of it for the KV cache ({tokens} tokens in {load.cache_type})" if memory["kv"] else ""
    cause = f"instance {instance.name}: {load.model.name} needs {_gib(load.total)}{_to_spare(load.spare)}{of_it}, and {place.owner} {_gib(place.total)}: "
    mends = _mends(instance, load)
    row = _row(f"instance {instance.name}", load.model.name, need, place, fits)
    if fits:
        return row, ""
    if not load.model.warm and load.total <= place.total + place.beside:
        # Ollama serves it all the same
        return (*row[:-1], "partly on the CPU"), _Warning(f"{cause}it runs partly on the CPU, and slowly. To have all of it on GPUs, {_either(mends)}")
    if not load.model.warm and load.model.there:
        # a run that stops would not take it away; and whoever has no lock was not told before
        return row, _Warning(f"{cause}{_either(mends)}")
    return row, f"{cause}{_either([*mends, _WARN])}"


def _row(owner: str, what: str, need: str, place: _Place, fits: bool) -> tuple[str, ...]:
    if place.total == _NOT_KNOWN:
        return ("memory", owner, what, need, f"of {place.words}", "")
    return ("memory", owner, what, need, f"of {_gib(place.total)} {place.words}", _verdict(fits))


def _to_spare(spare: int) -> str:
    return f" + {_gib(spare)} to spare" if spare else ""


def _mends(instance: _Instance, load: _Load) -> list[str]:
    """What can be done for a model that does not fit by itself."""
    place, memory = instance.place, load.memory
    if memory["kv"] and load.total - memory["kv"] + load.spare <= place.total:
        result = ["lower num_parallel"] if memory["parallel"] > 1 else []
        result.append("lower num_ctx of the model" if load.model.num_ctx else "give a lower context_length")
        if load.cache_type == "f16":
            off = instance.item["environment"].get("OLLAMA_FLASH_ATTENTION") == "0"
            result.append("turn flash_attention on and set kv_cache_type to q8_0" if off else "set kv_cache_type to q8_0")
    else:
        result = ["take a smaller model"]
    return [*result, {"GPU memory": "give the instance more GPUs", "memory_max": "raise memory_max"}.get(place.words, "serve it from a larger host")]


def _row_together(instance: _Instance) -> _Rows:
    if len(instance.together) < 2:
        return []
    place, total, spare = instance.place, sum(load.total for load in instance.together), instance.spare
    fits = total + spare <= place.total
    names = ", ".join(load.model.name for load in instance.together)
    problem = "" if fits else (
        f"instance {instance.name}: its warm models {names} need {_gib(total)} together{_to_spare(spare)}, and {place.owner} {_gib(place.total)}: "
        f"take warm from one, move one to another instance, lower num_parallel or context_length, set kv_cache_type to q8_0 or {_WARN}"
    )
    return [(_row(f"instance {instance.name}", "all warm models", f"{_gib(total)} together{_to_spare(spare)}", place, fits), problem)]


def _too_many(instance: _Instance) -> list[str]:
    limit = int(instance.item["environment"].get("OLLAMA_MAX_LOADED_MODELS", 0))
    count = len({model.root for model in instance.models if model.warm})
    if not limit or count <= limit:
        return []
    return [
        f"instance {instance.name}: {count} models are warm and max_loaded_models is {limit}, so that they throw each other out: "
        f"raise max_loaded_models, take warm from {count - limit} of them or {_WARN}"
    ]


def _thrown_out(instance: _Instance) -> list[str]:
    """Ollama holds a file of weights once: a request with another context or other adapters makes it load the model again."""
    groups: dict[str, list[_Model]] = {}
    for model in instance.models:
        if model.warm:
            groups.setdefault(model.root, []).append(model)
    return [
        f"instance {instance.name}: {' and '.join(model.name for model in group)} are warm and have the same weights, but another context or other "
        f"adapters, so that Ollama loads them anew at every change: give them one num_ctx, take warm from all but one or {_WARN}"
        for group in groups.values() if len({(_context(model, instance.item, instance.place), model.adapters) for model in group}) > 1
    ]


def _rows_shared(instances: Iterable[_Instance], memory_bytes: int) -> _Rows:
    """Rows for the instances with warm models that share GPUs, and for those that share the host's memory."""
    groups: list[list[_Instance]] = []
    for instance in instances:
        if instance.together and instance.place.total != _NOT_KNOWN:
            near = [group for group in groups if any(_shares(instance, other) for other in group)]
            groups = [group for group in groups if group not in near] + [[*(other for group in near for other in group), instance]]
    return [_row_shared(group, memory_bytes) for group in groups if len(group) > 1]


def _shares(one: _Instance, other: _Instance) -> bool:
    return bool(one.place.cards.keys() & other.place.cards.keys()) or not one.place.cards and not other.place.cards


def _row_shared(group: Sequence[_Instance], memory_bytes: int) -> tuple[tuple[str, ...], str]:
    cards = {number: size for instance in group for number, size in instance.place.cards.items()}
    overhead = max(instance.place.overhead for instance in group) * len(cards)
    place = _Place(memory_bytes, "host memory", "the host has", {}, 0)
    if cards:
        place = _Place(sum(cards.values()) - overhead, "GPU memory", "their GPUs have", cards, 0)
    total, spare = sum(load.total for instance in group for load in instance.together), max(instance.spare for instance in group)
    fits = total + spare <= place.total
    names = ", ".join(instance.name for instance in group)
    problem = "" if fits else (
        f"instances {names}: their warm models need {_gib(total)} together{_to_spare(spare)}, and {place.owner} {_gib(place.total)}: "
        f"take warm from one, give the instances GPUs of their own, lower num_parallel or context_length or {_WARN}"
    )
    return _row(f"instances {names}", "all warm models", f"{_gib(total)} together{_to_spare(spare)}", place, fits), problem
