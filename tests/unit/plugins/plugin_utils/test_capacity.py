"""What models need against what a host has: published sizes of KV caches and buffers, the table, and every problem."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _capacity, _model, _models

KIB, MIB, GIB = 2**10, 2**20, 2**30
STORE = "/srv/models"


def shape(layers: int, width: int, heads: Any, kv_heads: Any = None, **more: Any) -> dict[str, Any]:
    """Metadata of a model, as the reader of its header gives them."""
    result = {"architecture": "llama", "block_count": layers, "embedding_length": width, "head_count": heads, **more}
    return result if kv_heads is None else {**result, "head_count_kv": kv_heads}


LLAMA_8B = shape(32, 4096, 32, 8, context_length=131072, vocabulary_size=128256)
LLAMA_70B = shape(80, 8192, 64, 8, context_length=131072, vocabulary_size=128256)
GPT_OSS = shape(24, 2880, 64, 8, architecture="gpt-oss", key_length=64, value_length=64, sliding_window=128, context_length=131072, vocabulary_size=201088)
QWEN35_9B = shape(32, 4096, 16, 4, architecture="qwen35", key_length=256, value_length=256, context_length=262144, vocabulary_size=248320)
DEEPSEEK = {"architecture": "deepseek2", "block_count": 61, "embedding_length": 7168, "head_count": 128, "kv_lora_rank": 512}


@pytest.mark.parametrize(
    ("metadata", "gib"),
    [
        (LLAMA_8B, (0.125, 1.95, 15.62)),
        (LLAMA_70B, (0.313, 4.88, 39.06)),
        # as it was published first, with 16 heads; the files of today have 8
        (shape(126, 16384, 128, 16), (0.984, 15.38, 123.05)),
    ],
)
def test_llama31(metadata: dict[str, Any], gib: tuple[float, ...]) -> None:
    """The table of Hugging Face's blog on Llama 3.1 (llama31#inference-memory-requirements), which counts 1k as 1024 and k as 1000 above."""
    found = [_capacity.kv_cache_bytes(metadata, tokens) / GIB for tokens in (1024, 16000, 128000)]
    assert found == pytest.approx(gib, abs=0.006)


@pytest.mark.parametrize(
    ("metadata", "size"),
    [
        # DeepSeek, Insights into DeepSeek-V3 (arXiv 2505.09343), table 1, KV cache for a token in BF16
        (shape(80, 8192, 64, 8, architecture="qwen2"), 327680),
        (shape(126, 16384, 128, 8), 516096),
        ({**DEEPSEEK, "head_count_kv": 1, "key_length": 576, "value_length": 512, "key_length_mla": 192, "value_length_mla": 128}, 70272),
        # a log in llama.cpp's pull request 11397, before latent vectors were cached: n_embd_k_gqa = 24576, n_embd_v_gqa = 16384
        ({**DEEPSEEK, "head_count_kv": 128, "key_length": 192, "value_length": 128}, 61 * (24576 + 16384) * 2),
    ],
)
def test_bytes_of_a_token(metadata: dict[str, Any], size: int) -> None:
    """With grouped heads, and with latent attention as newer and older files describe it."""
    assert _capacity.kv_cache_bytes(metadata, 1) == size


def test_all_heads() -> None:
    """Llama 2 7B at 4096 tokens, 2048.00 MiB in every log of llama.cpp; Mistral 7B runs there without its window, 4096.00 MiB at 32768."""
    assert _capacity.kv_cache_bytes(shape(32, 4096, 32), 4096) == 2 * GIB
    assert _capacity.kv_cache_bytes(shape(32, 4096, 32, 8, sliding_window=4096), 32768) == 4 * GIB


def test_cache_types() -> None:
    """Ollama's FAQ: q8_0 about 1/2 and q4_0 about 1/4 of f16. Its blocks of 32 have a scale of 2 bytes."""
    f16, q8, q4 = (_capacity.kv_cache_bytes(LLAMA_8B, 4096, cache_type) for cache_type in ("f16", "q8_0", "q4_0"))
    assert (f16, q8 * 64, q4 * 64) == (512 * MIB, f16 * 34, f16 * 18)
    assert q8 == pytest.approx(f16 / 2, rel=0.07) and q4 == pytest.approx(f16 / 4, rel=0.13)


@pytest.mark.parametrize(("batch", "window"), [(512, 18), (2048, 54)])
def test_sliding_window(batch: int, window: int) -> None:
    """gpt-oss-20b in logs of llama.cpp: 3072.00 MiB for 131072 cells of 12 layers, and 768 or 2304 cells for the window of the other 12."""
    assert _capacity.kv_cache_bytes(GPT_OSS, 131072, batch=batch) == (3072 + window) * MIB


def test_sliding_window_of_each_request() -> None:
    """Every request has a window of its own, and none is larger than its context."""
    one = _capacity.kv_cache_bytes(GPT_OSS, 8192)
    assert _capacity.kv_cache_bytes(GPT_OSS, 4 * 8192, parallel=4) == 4 * one
    assert _capacity.kv_cache_bytes(GPT_OSS, 256) == 256 * 24 * 2 * 8 * 64 * 2


def test_sliding_window_by_header() -> None:
    """Gemma 4 12B in a log of llama.cpp, q8_0: 68 MiB for 8192 cells of 8 layers, 765 MiB for 4608 cells of 40 with other heads."""
    heads = {"key_length": 512, "value_length": 512, "key_length_swa": 256, "value_length_swa": 256}
    metadata = shape(48, 3840, 16, [8, 8, 8, 8, 8, 1] * 8, architecture="gemma4", sliding_window=1024, **heads)
    metadata["sliding_window_pattern"] = [True, True, True, True, True, False] * 8
    assert _capacity.kv_cache_bytes(metadata, 8192, "q8_0") == 68 * MIB + 765 * MIB * 1536 // 4608
    # without the pattern, an upper bound
    del metadata["sliding_window_pattern"]
    assert _capacity.kv_cache_bytes(metadata, 8192, "q8_0") > 2 * GIB


def test_layers_without_attention() -> None:
    """Qwen3.5 9B in a log of llama-server: 4352.00 MiB in q8_0 for 262144 cells of 8 layers of 32; elsewhere layers have no heads."""
    assert _capacity.kv_cache_bytes(QWEN35_9B, 262144, "q8_0") == 4352 * MIB
    assert _capacity.kv_cache_bytes({**QWEN35_9B, "full_attention_interval": 8}, 262144, "q8_0") == 2176 * MIB
    assert _capacity.kv_cache_bytes(shape(4, 1024, [0, 8, 0, 8], [0, 2, 0, 4]), 1000) == 1000 * (2 + 4) * 2 * 128 * 2
    assert _capacity.kv_cache_bytes(shape(4, 1024, 8, shared_kv_layers=3), 1000) == 1000 * 8 * 2 * 128 * 2


@pytest.mark.parametrize("metadata", [{}, {"architecture": "llama", "block_count": 32}, shape(12, 768, 12, architecture="nomic-bert", pooling_type=1)])
def test_no_cache(metadata: dict[str, Any]) -> None:
    """A header that does not say enough, and an encoder."""
    assert _capacity.kv_cache_bytes(metadata, 8192) == 0


@pytest.mark.parametrize(
    ("metadata", "context", "flash", "mib", "slack"),
    [
        # logs of llama.cpp, CUDA0 compute buffer size, batches of 512
        (LLAMA_8B, 512, False, 258.50, 1),
        (shape(36, 2048, 32, 8, vocabulary_size=49155), 4096, False, 300.75, 25),
        (QWEN35_9B, 262144, True, 808.02, 64),
        # an upper bound: this one was measured on Metal
        (GPT_OSS, 131072, True, 420.08, 120),
    ],
)
def test_buffers(metadata: dict[str, Any], context: int, flash: bool, mib: float, slack: float) -> None:
    """The estimate is near what was measured; with the allowance for the process it is above."""
    compute = _capacity.model_memory(metadata, 0, context, flash_attention=flash)["compute"] / MIB
    assert compute - 512 == pytest.approx(mib, abs=slack)
    assert compute > mib


def test_model_memory() -> None:
    """The context is that of each request, and never longer than the model's own."""
    found = _capacity.model_memory(LLAMA_8B, 5 * GIB, 8192, 4, "q8_0")
    assert (found["weights"], found["kv"], found["context"], found["parallel"]) == (5 * GIB, 4 * GIB * 34 // 32 // 2, 8192, 4)
    assert found["total"] == found["weights"] + found["kv"] + found["compute"]
    assert _capacity.model_memory(LLAMA_8B, 0, 262144)["kv"] == 16 * GIB
    # in steps of 256 tokens
    assert _capacity.model_memory(LLAMA_8B, 0, 1000)["kv"] == 128 * MIB


def test_one_request_at_a_time() -> None:
    """Ollama takes num_parallel as 1 for embedding models and some architectures."""
    embedding = shape(28, 1024, 16, 8, architecture="qwen3", pooling_type=3, context_length=32768)
    assert _capacity.model_memory(embedding, 0, 8192, 4)["parallel"] == 1
    assert _capacity.model_memory(QWEN35_9B, 0, 8192, 4)["parallel"] == 1
    # no logits: a batch of 2048 takes less than 512 tokens of a model that generates
    assert _capacity.model_memory(embedding, 0, 8192)["compute"] < _capacity.model_memory(LLAMA_8B, 0, 8192)["compute"]


@pytest.mark.parametrize(
    ("gib", "context"), [(0, 4096), (22.99, 4096), (23, 32768), (24, 32768), (46.99, 32768), (47, 262144), (640, 262144)]
)
def test_default_context(gib: float, context: int) -> None:
    """The tiers of Ollama, with their exact limits."""
    assert _capacity.default_context(int(gib * GIB)) == context


def entry(gib: float, metadata: dict[str, Any]) -> dict[str, Any]:
    """An entry of a lock; the template is no weight."""
    layers = [{"kind": "model", "digest": "a", "size": int(gib * GIB)}, {"kind": "template", "digest": "b", "size": GIB}]
    return {"size": 0, "layers": layers, "metadata": metadata}


def store(missing: float = 0, free: float = 900, unknown: tuple[str, ...] = (), there: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """What a store says, in GB."""
    return {"store": STORE, "missing_bytes": int(missing * 1e9), "free_bytes": int(free * 1e9), "unknown": list(unknown), "models": list(there)}


def cards(*gib: float | None, vendor: str = "nvidia") -> dict[str, Any]:
    """GPUs of a host."""
    uuid = "GPU-{}" if vendor == "nvidia" else ""
    return {"gpus": [{"uuid": uuid.format(number), "memory_bytes": size and int(size * GIB), "vendor": vendor} for number, size in enumerate(gib)]}


LOCK = {"llama3.1:8b": entry(4.6, LLAMA_8B), "llama3.1:70b": entry(39.6, LLAMA_70B)}


def report(
    instances: list[dict[str, Any]], models: list[Any], gpus: dict[str, Any] | None = None, memory: float = 64, lock: Any = None, **disk: Any
) -> dict[str, list[str]]:
    """The report on a host with one store."""
    completed = _model.instances([{"port": 11434 + number, **item} for number, item in enumerate(instances)], "10.0.0.5", STORE)
    lock = LOCK if lock is None else lock
    return _capacity.capacity_report(completed, _models.manifest(models), lock, [store(**disk)], int(memory * GIB), gpus or {"gpus": []}, 10**9)


def trouble(found: dict[str, list[str]]) -> list[str]:
    """All that is not as it should be."""
    return found["problems"] + found["warnings"]


def cells(line: str) -> list[str]:
    """The columns of a line."""
    return re.split(" {2,}", line)


def test_table() -> None:
    """A row for the disk and for each model, in columns."""
    options = {"name": "default", "environment": {"num_parallel": 4, "context_length": 8192}}
    found = report([options], ["llama3.1:70b", "llama3.1:8b", "other"], cards(80), missing=42.5, free=300, unknown=("other:latest",))
    assert [cells(line) for line in found["lines"]] == [
        ["disk", "/srv/models", "needs 42.5 GB + 1.0 GB reserve", "has 300.0 GB", "fits"],
        ["disk", "/srv/models", "size of other:latest not known: lock it with the playbook gpufleet.ollama.lock", "not known"],
        [
            "memory", "instance default", "llama3.1:70b", "39.6 GiB weights + 10.0 GiB KV cache (8192 x 4, f16) + 0.8 GiB buffers + 1.0 GiB to spare",
            "of 80.0 GiB GPU memory", "fits",
        ],
        [
            "memory", "instance default", "llama3.1:8b", "4.6 GiB weights + 4.0 GiB KV cache (8192 x 4, f16) + 0.8 GiB buffers + 1.0 GiB to spare",
            "of 80.0 GiB GPU memory", "fits",
        ],
        ["memory", "instance default", "other:latest", "size not known: lock it with the playbook gpufleet.ollama.lock", "not known"],
    ]
    assert len({line.index("of 80.0") for line in found["lines"][2:4]}) == 1
    assert not found["problems"]


def test_disk() -> None:
    """What is to come and the reserve, to the last byte; the store may be in the item of a loop."""
    assert not report([{"name": "a"}], [], missing=99, free=100)["problems"]
    problem, = report([{"name": "a"}], [], missing=99.1, free=100)["problems"]
    assert problem == (
        "/srv/models: 99.1 GB of models are to come, 1.0 GB are to stay free, and 100.0 GB are free: "
        "free some, take models out of ollama_models, choose a larger disk or set ollama_capacity_check to warn"
    )
    looped = {**store(), "item": {"store": "/srv/other"}}
    del looped["store"]
    assert _capacity.capacity_report([], [], None, [looped], GIB)["lines"] == ["disk    /srv/other  needs 0.0 GB + 0.0 GB reserve  has 900.0 GB  fits"]


@pytest.mark.parametrize(
    ("options", "gpus", "words"),
    [
        ({}, cards(48, 48), "of 96.0 GiB GPU memory"),
        ({"environment": {"gpu_overhead": 2 * GIB}}, cards(48, 48), "of 92.0 GiB GPU memory"),
        ({"gpus": ["GPU-1"]}, cards(48, 24), "of 24.0 GiB GPU memory"),
        ({}, cards(64, vendor="amd"), "of 64.0 GiB GPU memory"),
        ({"gpus": "none"}, cards(48), "of 64.0 GiB host memory"),
        ({"gpus": "none", "memory_max": "16G"}, cards(48), "of 16.0 GiB memory_max"),
        ({"gpus": "none", "memory_max": 17179869184}, cards(48), "of 16.0 GiB memory_max"),
        ({}, cards(48, None), "of GPU memory, size not known"),
        ({"gpus": ["GPU-0", "MIG-7"]}, cards(48), "of GPU memory, size not known"),
        ({"gpus": ["GPU-0"]}, None, "of GPU memory, size not known"),
        ({}, None, "of 64.0 GiB host memory"),
    ],
)
def test_memory_of_an_instance(options: dict[str, Any], gpus: Any, words: str) -> None:
    """Its GPUs, of which the check cannot say no until all are known; without GPUs its limit, or the host."""
    assert words in report([{"name": "a", **options}], ["llama3.1:8b"], gpus)["lines"][1]


@pytest.mark.parametrize(
    ("options", "model", "gpus", "words"),
    [
        ({}, {}, cards(16), "(4096 x 1, f16)"),
        ({}, {}, cards(24), "(32768 x 1, f16)"),
        # the model ends before Ollama's default
        ({}, {}, cards(80), "(131072 x 1, f16)"),
        ({"context_length": 0}, {}, cards(16), "(4096 x 1, f16)"),
        ({"context_length": 16384, "kv_cache_type": "q8_0"}, {}, cards(80), "1.1 GiB KV cache (16384 x 1, q8_0)"),
        ({"context_length": 16384, "kv_cache_type": "q8_0", "flash_attention": False}, {}, cards(80), "2.0 GiB KV cache (16384 x 1, f16)"),
        ({"context_length": 16384}, {"parameters": {"num_ctx": 2048}}, cards(80), "(2048 x 1, f16)"),
    ],
)
def test_context(options: dict[str, Any], model: dict[str, Any], gpus: Any, words: str) -> None:
    """Of the model, of the instance, or Ollama's default for the GPUs."""
    found = report([{"name": "a", "environment": options}], ["llama3.1:8b", {"name": "mine", "from": "Llama3.1:8B", **model}], gpus)["lines"]
    assert words in found[2] and "mine:latest  4.6 GiB weights" in found[2]


@pytest.mark.parametrize(
    ("options", "model", "gpus", "words"),
    [
        ({}, {}, cards(16), "(4096 x 1, f16)"),
        ({}, {}, cards(24), "(32768 x 1, f16)"),
        # the model ends before Ollama's default
        ({}, {}, cards(80), "(131072 x 1, f16)"),
        ({"context_length": 0}, {}, cards(16), "(4096 x 1, f16)"),
        ({"context_length": 16384, "kv_cache_type": "q8_0"}, {}, cards(80), "1.1 GiB KV cache (16384 x 1, q8_0)"),
        ({"context_length": 16384, "kv_cache_type": "q8_0", "flash_attention": False}, {}, cards(80), "2.0 GiB KV cache (16384 x 1, f16)"),
        ({"context_length": 16384}, {"parameters": {"num_ctx": 2048}}, cards(80), "(2048 x 1, f16)"),
    ],
)
def test_context(options: dict[str, Any], model: dict[str, Any], gpus: Any, words: str) -> None:
    """Of the model, of the instance, or Ollama's default for the GPUs."""
    found = report([{"name": "a", "environment": options}], ["llama3.1:8b", {"name": "mine", "from": "Llama3.1:8B", **model}], gpus)["lines"]
    assert words in found[2] and "mine:latest  4.6 GiB weights" in found[2]


def test_boundary() -> None:
    """One byte decides, and one GiB stays free on the GPU unless the inventory says otherwise."""
    need = _capacity.model_memory(LLAMA_8B, int(4.6 * GIB), 4096)["total"]
    fits = {"name": "a", "environment": {"context_length": 4096}}
    assert not trouble(report([fits], ["llama3.1:8b"], cards((need + GIB) / GIB)))
    assert trouble(report([fits], ["llama3.1:8b"], cards((need + GIB - 1) / GIB)))
    for option in ({"fit_target": 0}, {"fit": False}):
        assert not trouble(report([{"name": "a", "environment": {**fits["environment"], **option}}], ["llama3.1:8b"], cards(need / GIB)))
    # gpu_overhead stays free already
    overhead = {"name": "a", "environment": {"context_length": 4096, "gpu_overhead": 2 * GIB}}
    assert not trouble(report([overhead], ["llama3.1:8b"], cards((need + 2 * GIB) / GIB)))
    assert not trouble(report([{**fits, "gpus": "none"}], ["llama3.1:8b"], memory=need / GIB))


def test_several_gpus() -> None:
    """A model too large for one of them has buffers on all."""
    options = {"name": "a", "environment": {"context_length": 4096}}
    assert "+ 0.8 GiB buffers + 1.0 GiB to spare" in report([options], ["llama3.1:8b"], cards(24, 24, 24, 24))["lines"][1]
    assert "+ 3.1 GiB buffers + 4.0 GiB to spare" in report([options], ["llama3.1:70b"], cards(24, 24, 24, 24))["lines"][1]
    # 39.6 + 1.25 + 4 x 0.76 + 4 to spare
    assert trouble(report([options], ["llama3.1:70b"], cards(11.9, 11.9, 11.9, 11.9)))
    assert not trouble(report([options], ["llama3.1:70b"], cards(12.1, 12.1, 12.1, 12.1)))
    options["environment"] |= {"sched_spread": True}
    assert "+ 3.0 GiB buffers + 4.0 GiB to spare" in report([options], ["llama3.1:8b"], cards(24, 24, 24, 24))["lines"][1]


@pytest.mark.parametrize(
    ("options", "model", "gpus", "words"),
    [
        (
            {"environment": {"num_parallel": 4, "context_length": 32768}}, "llama3.1:70b", cards(80),
            "instance a: llama3.1:70b needs 80.4 GiB + 1.0 GiB to spare, 40.0 GiB of it for the KV cache (32768 x 4 tokens in f16), and its GPUs have "
            "80.0 GiB: lower num_parallel, give a lower context_length, set kv_cache_type to q8_0, give the instance more GPUs "
            "or set ollama_capacity_check to warn",
        ),
        ({"environment": {"context_length": 131072}}, "llama3.1:70b", cards(80), "its GPUs have 80.0 GiB: give a lower context_length, set kv_cache_type"),
        ({"environment": {"context_length": 131072, "kv_cache_type": "q8_0"}}, "llama3.1:8b", cards(12), "give a lower context_length, give the instance more"),
        ({"environment": {"context_length": 131072, "flash_attention": False}}, "llama3.1:8b", cards(24), "turn flash_attention on and set kv_cache_type"),
        ({"gpus": "none", "memory_max": "32G"}, "llama3.1:70b", None, "and its memory_max is 32.0 GiB: take a smaller model, raise memory_max or set"),
        ({"gpus": "none"}, "llama3.1:70b", None, "and the host has 30.0 GiB: take a smaller model, serve it from a larger host or set"),
        ({}, {"name": "mine", "from": "llama3.1:8b", "parameters": {"num_ctx": 131072}}, cards(16), "lower num_ctx of the model, set"),
    ],
)
def test_too_large(options: dict[str, Any], model: Any, gpus: Any, words: str) -> None:
    """A model that does not fit by itself, and what would help."""
    own = not isinstance(model, str)
    entries: list[Any] = [{**model, "warm": True}] if own else []
    entries += [{"name": name, "warm": name == model} for name in LOCK]
    found = report([{"name": "a", "models": ["mine" if own else model], **options}], entries, gpus, memory=30)
    problem, = found["problems"]
    assert words in problem
    assert found["lines"][-1].endswith("does not fit")


def test_partly_on_the_cpu() -> None:
    """Ollama serves a model that the GPUs cannot hold from the host's memory too: no reason to stop, unless that is too small as well."""
    options = {"name": "a", "environment": {"context_length": 4096}}
    found = report([options], ["llama3.1:70b"], cards(24), memory=64)
    assert not found["problems"] and found["lines"][-1].endswith("partly on the CPU")
    assert "its GPUs have 24.0 GiB: it runs partly on the CPU, and slowly. To have all of it on GPUs, take a smaller model" in found["warnings"][0]
    assert report([options], [{"name": "llama3.1:70b", "warm": True}], cards(24), memory=64)["problems"]
    assert report([options], ["llama3.1:70b"], cards(24), memory=8)["problems"]


def test_there_already() -> None:
    """A run that stops would not take a model away that is there: a warning, unless it is to be loaded."""
    options = {"name": "a", "gpus": "none", "memory_max": "1G"}
    item = _model.instances([options], "10.0.0.5", STORE)
    there = {**store(), "models": [{"name": "llama3.1:8b", "weights_bytes": 4 * GIB, "metadata": LLAMA_8B}]}
    for warm in (True, False):
        found = _capacity.capacity_report(item, _models.manifest([{"name": "llama3.1:8b", "warm": warm}]), {}, [there], GIB, None, 10**9)
        assert (len(found["problems"]), len(found["warnings"])) == ((1, 0) if warm else (0, 1))
        assert "its memory_max is 1.0 GiB" in str(found)


def test_disk_without_need() -> None:
    """Who has all of it need not free the reserve; nor is a disk judged that is not there yet."""
    assert not report([{"name": "a"}], ["llama3.1:8b"], missing=0, free=0.1)["problems"]
    assert report([{"name": "a"}], ["llama3.1:8b"], missing=0.1, free=0.1)["problems"]
    item = _model.instances([{"name": "a"}], "10.0.0.5", STORE)
    found = _capacity.capacity_report(item, [], LOCK, [store(missing=42, free=1)], GIB, None, 10**9, [STORE])
    assert not found["problems"] and "size not known before it is mounted or adopted" in found["lines"][0]


def test_warm_models() -> None:
    """Together they need the sum, and room for Ollama to load the largest one last; cold ones only have to fit by themselves."""
    options = {"name": "a", "environment": {"context_length": 4096}}
    names = [{"name": "llama3.1:8b", "warm": True}, {"name": "llama3.1:70b", "warm": True}]
    cold = report([options], ["llama3.1:8b", "llama3.1:70b"], cards(48))
    assert not cold["problems"] and not any("all warm models" in line for line in cold["lines"])
    found = report([options], names, cards(48))
    assert cells(found["lines"][-1]) == [
        "memory", "instance a", "all warm models", "47.5 GiB together + 10.4 GiB to spare", "of 48.0 GiB GPU memory", "does not fit"
    ]
    problem, = found["problems"]
    assert problem.startswith("instance a: its warm models llama3.1:8b, llama3.1:70b need 47.5 GiB together + 10.4 GiB to spare, and its GPUs have 48.0 GiB: ")
    assert report([options], names, cards(57.7))["problems"] and not report([options], names, cards(58.1))["problems"]
    # nothing is thrown out of the host's memory
    assert not report([{**options, "gpus": "none"}], names, memory=48)["problems"]


def test_batch_of_warm_models() -> None:
    """While there is room, Ollama computes more tokens at once, and the buffers grow."""
    names = [{"name": "llama3.1:8b", "warm": True}, {"name": "other:8b", "warm": True}]
    lock = {**LOCK, "other:8b": entry(4.6, LLAMA_8B)}
    totals = []
    for context in (4096, 32768, 65536):
        line = report([{"name": "a", "gpus": "none", "environment": {"context_length": context}}], names, lock=lock)["lines"][-1]
        totals.append(float(line.split("all warm models  ")[1].split(" GiB")[0]) - 2 * (4.6 + context / 8192))
    # two processes; the buffers of 512, 1024 and 2048 tokens, with their masks
    assert totals == pytest.approx([0.6, 1.3, 2.6], abs=0.15)


def test_too_many_warm_models() -> None:
    """More than the instance may hold."""
    models = [{"name": name, "warm": True} for name in LOCK]
    problem, = report([{"name": "a", "environment": {"max_loaded_models": 1, "context_length": 4096}}], models, cards(80))["problems"]
    assert problem == (
        "instance a: 2 models are warm and max_loaded_models is 1, so that they throw each other out: "
        "raise max_loaded_models, take warm from 1 of them or set ollama_capacity_check to warn"
    )
    for limit in (0, 2):
        assert not report([{"name": "a", "environment": {"max_loaded_models": limit, "context_length": 4096}}], models, cards(80))["problems"]


def test_same_weights() -> None:
    """Ollama holds them once: with one context that is one model, with two they take turns."""
    options = {"name": "a", "environment": {"context_length": 4096, "max_loaded_models": 1}}
    models = [{"name": "llama3.1:8b", "warm": True}, {"name": "mine", "from": "llama3.1:8b", "warm": True}]
    found = report([options], models, cards(24))
    assert not found["problems"] and len(found["lines"]) == 3
    problem, = report([options], [models[0], {**models[1], "parameters": {"num_ctx": 8192}}], cards(24))["problems"]
    assert problem.startswith("instance a: llama3.1:8b and mine:latest are warm and have the same weights, but another context or other adapters, so that")
    # longer than both can be is no difference
    long = {**options, "environment": {"context_length": 131072}}
    assert not report([long], [models[0], {**models[1], "parameters": {"num_ctx": 200000}}], cards(80))["problems"]
    assert report([options], [models[0], {**models[1], "adapters": [{"path": "/srv/a.gguf"}]}], cards(24))["problems"]


def test_shared_gpus() -> None:
    """Instances with a GPU in common, and those without GPUs, hold their warm models in one place."""
    warm = {"name": "llama3.1:8b", "warm": True}
    options = {"environment": {"context_length": 4096}}
    two = [{"name": "a", **options}, {"name": "b", "gpus": ["GPU-1"], **options}]
    found = report(two, [warm], cards(5.7, 6.9))
    assert found["problems"][-1] == (
        "instances a, b: their warm models need 11.7 GiB together + 1.0 GiB to spare, and their GPUs have 12.6 GiB: "
        "take warm from one, give the instances GPUs of their own, lower num_parallel or context_length or set ollama_capacity_check to warn"
    )
    assert found["lines"][-1].startswith("memory  instances a, b  all warm models")
    fits = report(two, [warm], cards(24, 24))
    assert not fits["problems"] and fits["lines"][-1].endswith("of 48.0 GiB GPU memory  fits")
    apart = [{"name": "a", "gpus": ["GPU-0"], **options}, {"name": "b", "gpus": ["GPU-1"], **options}]
    assert not any("instances" in line for line in report(apart, [warm], cards(24, 24))["lines"])
    limited = [{"name": name, "gpus": "none", "memory_max": "8G", **options} for name in "ab"]
    problem, = report(limited, [warm], memory=10)["problems"]
    assert "instances a, b: their warm models need 10.8 GiB together, and the host has 10.0 GiB: take warm" in problem
    # only one of them loads something for good
    assert not report([limited[0], {**limited[1], "models": []}], [warm], memory=10)["problems"]


def test_instances_that_meet_by_a_third() -> None:
    """One pool, though two of them have no GPU in common."""
    options = {"environment": {"context_length": 4096}}
    found = report(
        [{"name": "a", "gpus": ["GPU-0"], **options}, {"name": "b", "gpus": ["GPU-1"], **options}, {"name": "c", **options}],
        [{"name": "llama3.1:8b", "warm": True}], cards(24, 24),
    )
    assert "instances a, b, c" in found["lines"][-1]


def test_models_of_an_instance() -> None:
    """Only what it serves and what is to be there; names are matched without case."""
    lines = report([{"name": "a", "models": ["LLAMA3.1:8B"]}], ["llama3.1:8b", "llama3.1:70b"], cards(80))["lines"]
    assert len(lines) == 2 and "llama3.1:8b" in lines[1]
    assert len(report([{"name": "a"}], [{"name": "llama3.1:8b", "state": "absent"}], cards(80))["lines"]) == 1


def test_sizes_from_the_store() -> None:
    """A model that is there needs no lock; what the lock says comes first."""
    there = {"name": "Other:latest", "size": 9 * GIB, "weights_bytes": 8 * GIB, "metadata": LLAMA_8B}
    assert "other:latest  8.0 GiB weights" in report([{"name": "a"}], ["other"], cards(80), there=(there,))["lines"][1]
    lock = {"other:latest": entry(4, {})}
    assert "4.0 GiB weights + 16.0 GiB KV cache" in report([{"name": "a"}], ["other"], cards(80), lock=lock, there=(there,))["lines"][1]


def test_custom_models() -> None:
    """A chain of models of one's own has the weights of its base; a file is known when the model is made, and so is a new quantization."""
    models = [
        "llama3.1:8b",
        {"name": "one", "from": "llama3.1:8b", "parameters": {"num_ctx": 2048}},
        {"name": "two", "from": "one", "system": "Be brief."},
        {"name": "small", "from": "llama3.1:8b", "quantize": "q4_K_M"},
        {"name": "file", "from": "/srv/file.gguf"},
    ]
    lines = report([{"name": "a"}], models, cards(80))["lines"]
    assert "two:latest    4.6 GiB weights + 0.2 GiB KV cache (2048 x 1" in lines[3]
    assert [line.split(":latest")[1].split("  ")[-1] for line in lines[4:]] == ["not known"] * 2
    assert all("size not known: it is known when the model is made" in line for line in lines[4:])
    made = {"name": "file:latest", "size": 0, "weights_bytes": GIB, "metadata": LLAMA_8B}
    assert "1.0 GiB weights" in report([{"name": "a"}], models, cards(80), there=(made,))["lines"][5]


def test_without_metadata() -> None:
    """The weights alone count, and may be too much."""
    found = report([{"name": "a"}], ["big"], cards(24), lock={"big:latest": entry(40, {})})
    assert "40.0 GiB weights + KV cache not known +" in found["lines"][1]
    assert "needs 41.0 GiB + 1.0 GiB to spare, and its GPUs have 24.0 GiB: it runs partly on the CPU" in found["warnings"][0]


def test_nothing() -> None:
    """A host without instances and stores."""
    assert _capacity.capacity_report([], [], {}, [], GIB) == {"lines": [], "problems": [], "warnings": []}
