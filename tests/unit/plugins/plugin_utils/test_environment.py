"""The environment of an instance: what Ollama gets, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _environment

ROOT = Path(__file__).resolve().parents[4]
NAMES = ROOT / "roles/common/README.md"


def refused(function: Any, *args: Any) -> str:
    """The sentence that a function refuses its arguments with."""
    with pytest.raises(_environment.ModelError) as error:
        function("instance a:", *args)
    return str(error.value)


@pytest.mark.parametrize(
    ("option", "value", "variable", "text"),
    [
        ("num_parallel", 4, "OLLAMA_NUM_PARALLEL", "4"),
        ("max_loaded_models", "0", "OLLAMA_MAX_LOADED_MODELS", "0"),
        ("max_queue", 1, "OLLAMA_MAX_QUEUE", "1"),
        ("context_length", 8192, "OLLAMA_CONTEXT_LENGTH", "8192"),
        ("max_transfer_streams", 2, "OLLAMA_MAX_TRANSFER_STREAMS", "2"),
        ("gpu_overhead", 1073741824, "OLLAMA_GPU_OVERHEAD", "1073741824"),
        ("fit_target", 1024, "LLAMA_ARG_FIT_TARGET", "1024"),
        ("fit", "on", "LLAMA_ARG_FIT", "on"),
        ("fit", False, "LLAMA_ARG_FIT", "off"),
        ("keep_alive", -1, "OLLAMA_KEEP_ALIVE", "-1"),
        ("keep_alive", "-1m", "OLLAMA_KEEP_ALIVE", "-1m"),
        ("keep_alive", "1h30m", "OLLAMA_KEEP_ALIVE", "1h30m"),
        ("keep_alive", "2562047h47m", "OLLAMA_KEEP_ALIVE", "2562047h47m"),
        ("load_timeout", "1.5h", "OLLAMA_LOAD_TIMEOUT", "1.5h"),
        ("load_timeout", 300, "OLLAMA_LOAD_TIMEOUT", "300"),
        ("flash_attention", True, "OLLAMA_FLASH_ATTENTION", "1"),
        ("sched_spread", False, "OLLAMA_SCHED_SPREAD", "0"),
        ("no_cloud", "0", "OLLAMA_NO_CLOUD", "0"),
        ("vulkan", "False", "OLLAMA_VULKAN", "0"),
        ("igpu_enable", 1, "OLLAMA_IGPU_ENABLE", "1"),
        ("debug_log_requests", "true", "OLLAMA_DEBUG_LOG_REQUESTS", "1"),
        ("noprune", True, "OLLAMA_NOPRUNE", "1"),
        ("go_template", False, "OLLAMA_GO_TEMPLATE", "0"),
        ("debug", False, "OLLAMA_DEBUG", "0"),
        ("debug", True, "OLLAMA_DEBUG", "1"),
        ("debug", 2, "OLLAMA_DEBUG", "2"),
        ("kv_cache_type", "q8_0", "OLLAMA_KV_CACHE_TYPE", "q8_0"),
        ("llm_library", "cuda_v12", "OLLAMA_LLM_LIBRARY", "cuda_v12"),
        ("hsa_override_gfx_version", "10.3.0", "HSA_OVERRIDE_GFX_VERSION", "10.3.0"),
        ("origins", ["https://a.example", "https://*.b.example", "app://*"], "OLLAMA_ORIGINS", "https://a.example,https://*.b.example,app://*"),
        ("origins", "https://a.example, http://b:*", "OLLAMA_ORIGINS", "https://a.example,http://b:*"),
        ("remotes", ["ollama.com", "a.example.org"], "OLLAMA_REMOTES", "ollama.com,a.example.org"),
        ("https_proxy", "http://user:p%40ss@proxy:3128", "HTTPS_PROXY", "http://user:p%40ss@proxy:3128"),
        ("http_proxy", "socks5://[fd00::1]:1080", "HTTP_PROXY", "socks5://[fd00::1]:1080"),
        ("no_proxy", [".example.org", "10.0.0.0/8"], "NO_PROXY", ".example.org,10.0.0.0/8"),
        ("no_proxy", "localhost, *", "NO_PROXY", "localhost,*"),
    ],
)
def test_options(option: str, value: Any, variable: str, text: str) -> None:
    assert _environment.environment("instance a:", {option: value}) == {variable: text}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_parallel", 0, "environment.num_parallel is 0: give a whole number of at least 1"),
        ("num_parallel", 1.5, "whole number"),
        ("num_parallel", True, "num_parallel is True"),
        ("num_parallel", "four", "is 'four'"),
        ("num_parallel", "٤", "whole number"),
        ("num_parallel", None, "is None"),
        ("max_queue", 0, "at least 1"),
        ("max_transfer_streams", 0, "at least 1"),
        ("context_length", -1, "at least 0"),
        ("context_length", 2**63, "whole number"),
        ("gpu_overhead", "1G", "is '1G'"),
        ("fit_target", "1024MiB", "is '1024MiB'"),
        ("fit", "auto", "give on or off"),
        ("keep_alive", "1d", "give a Go duration such as 30m or 24h, whole seconds, or -1 for ever"),
        ("keep_alive", "forever", "Go duration"),
        ("keep_alive", "", "Go duration"),
        ("keep_alive", "5m\n", "line breaks"),
        ("keep_alive", True, "Go duration"),
        ("keep_alive", 1.5, "Go duration"),
        ("keep_alive", "2562048h", "292 years"),
        ("load_timeout", 9223372037, "292 years"),
        ("load_timeout", "5 m", "load_timeout is '5 m'"),
        ("flash_attention", "yes", "give true or false"),
        ("no_cloud", "off", "give true or false"),
        ("vulkan", 2, "give true or false"),
        ("debug", "trace", "give false, true, or 2 for traces"),
        ("debug", 3, "or 2 for traces"),
        ("kv_cache_type", "q5", "give f16, q8_0 or q4_0"),
        ("llm_library", "/usr/lib/ollama/cuda_v12", "such as cuda_v12"),
        ("hsa_override_gfx_version", "gfx1030", "such as 10.3.0"),
        ("hsa_override_gfx_version", "10.3.16", "up to 15"),
        ("origins", ["chat.example.org"], "has 'chat.example.org': give origins such as"),
        ("origins", ["ftp://a.example"], "give origins"),
        ("origins", ["https://*.*.org"], "at most one *"),
        ("origins", ["https://a,https://b"], "give origins"),
        ("origins", "https://a,", "has ''"),
        ("origins", [1], "give a list"),
        ("remotes", ["https://ollama.com"], "without scheme and port"),
        ("remotes", {"a": 1}, "give a list"),
        ("https_proxy", "proxy:3128", "is no URL of a proxy"),
        ("https_proxy", "http://", "with scheme and host"),
        ("https_proxy", "http://proxy:port", "is no URL of a proxy"),
        ("http_proxy", 3128, "is no URL of a proxy"),
        ("no_proxy", ["http://a"], "give host names"),
        ("no_proxy", ["a b"], "give host names"),
        ("https_proxy", 'http://u:"secret@proxy', "double quotes"),
        ("origins", ["https://a\\b"], "backslashes"),
        ("llm_library", "cuda\0", "control characters"),
    ],
)
def test_refused_options(option: str, value: Any, message: str) -> None:
    assert message in refused(_environment.environment, {option: value})


def test_a_message_never_shows_the_password_of_a_proxy() -> None:
    for url in ("ftp://user:secret@proxy", "http://user:se cret@proxy", 'http://user:"secret@proxy'):
        assert "cret" not in refused(_environment.environment, {"https_proxy": url})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("parallel", "the unknown option parallel (did you mean num_parallel?): known are context_length, debug"),
        ("zzz", "the unknown option zzz: known are"),
        ("OLLAMA_KEEP_ALIVE", "has OLLAMA_KEEP_ALIVE: write keep_alive"),
        ("LLAMA_ARG_FIT", "write fit"),
        ("HTTPS_PROXY", "write https_proxy"),
        ("LLAMA_ARG_THREADS", "write it into extra_environment"),
        ("host", "ollama_listen_address"),
        ("port", "option port of the instance"),
        ("models", "ollama_models_dir"),
        ("models_dir", "beside environment"),
        ("num_gpu", "option gpus"),
        ("num_ctx", "write context_length"),
        ("num_thread", "LLAMA_ARG_THREADS"),
        ("cuda_visible_devices", "option gpus"),
        ("home", "ollama_home_dir"),
        ("new_engine", "gone since Ollama 0.30"),
        ("multiuser_cache", "gone since Ollama 0.30"),
        ("intel_gpu", "write vulkan"),
        ("max_vram", "write fit_target"),
        ("tmpdir", "gone since Ollama 0.5.2"),
        ("OLLAMA_RUNNERS_DIR", "write llm_library"),
        ("experiment", "gone since Ollama 0.31.2"),
        ("registry", "mirror.example.org/library"),
        ("registry_mirror", "mirror.example.org/library"),
        ("registries", "mirror.example.org/library"),
        ("api_key", "ollama_gateway_clients"),
        ("auth", "ollama_gateway_clients"),
        ("metrics", "ollama_exporter"),
        ("nohistory", "command line"),
        ("editor", "command line"),
        ("ld_preload", "libraries of the release only"),
        (1, "the unknown option 1"),
    ],
)
def test_what_is_no_option(key: Any, message: str) -> None:
    """A variable that does nothing, or is set elsewhere, gets its own sentence."""
    assert message in refused(_environment.environment, {key: "1"})


def test_extra_environment() -> None:
    """What has no option passes as it is."""
    given = {"LLAMA_ARG_THREADS": 8, "OLLAMA_FUTURE": "x y", "TMPDIR": "/var/lib/ollama/tmp"}
    assert _environment.extra_environment("instance a:", given, {}) == {"LLAMA_ARG_THREADS": "8", "OLLAMA_FUTURE": "x y", "TMPDIR": "/var/lib/ollama/tmp"}
    assert _environment.extra_environment("instance a:", None, {}) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["A=1"], "give a mapping such as {LLAMA_ARG_THREADS: 8}"),
        ({"threads": 1}, "upper-case letters"),
        ({"A B": 1}, "upper-case letters"),
        ({"1A": 1}, "upper-case letters"),
        ({"A\n": 1}, "upper-case letters"),
        ({"OLLAMA_KEEP_ALIVE": "5m"}, "write keep_alive into environment"),
        ({"LLAMA_ARG_FIT_TARGET": 1}, "write fit_target into environment"),
        ({"OLLAMA_HOST": "0.0.0.0"}, "ollama_listen_address"),
        ({"OLLAMA_MODELS": "/x"}, "models_dir"),
        ({"HOME": "/x"}, "ollama_home_dir"),
        ({"PATH": "/x"}, "programs of the release"),
        ({"LD_PRELOAD": "/x"}, "libraries of the release"),
        ({"LD_LIBRARY_PATH": "/x"}, "libraries of the release"),
        ({"GPUFLEET_CONFIG_ID": "x"}, "keeps these names for itself"),
        ({"CUDA_VISIBLE_DEVICES": 0}, "option gpus"),
        ({"OLLAMA_NEW_ENGINE": 1}, "gone since Ollama 0.30"),
        ({"GGML_VK_VISIBLE_DEVICES": 0}, "follows from the other options"),
        ({"A": True}, "text in quotes"),
        ({"A": None}, "text in quotes"),
        ({"A": ["x"]}, "text in quotes"),
        ({"A": 'x"y'}, "double quotes"),
        ({"A": "x\ny"}, "line breaks"),
    ],
    ids=str,
)
def test_refused_extra_environment(given: Any, message: str) -> None:
    assert message in refused(_environment.extra_environment, given, {"GGML_VK_VISIBLE_DEVICES": "-1"})


def test_the_readme_lists_every_option() -> None:
    """An operator finds each option and its variable in the README of role common."""
    text = NAMES.read_text(encoding="utf-8")
    for option, (variable, _check) in _environment.OPTIONS.items():
        assert f"`{option}`" in text and f"`{variable}`" in text, option


@pytest.mark.parametrize(
    ("variables", "secret"),
    [
        ({"HTTPS_PROXY": "http://proxy.example.org:3128", "OLLAMA_KEEP_ALIVE": "5m"}, False),
        ({"HTTPS_PROXY": "http://me:hunter2@proxy.example.org:3128"}, True),
        ({"HF_TOKEN": "hf_1"}, True),
        ({"OLLAMA_ORIGINS": "https://a.example.org,https://b.example.org/@"}, False),
    ],
)
def test_holds_secret(variables: dict[str, str], secret: bool) -> None:
    assert _environment.holds_secret(variables) is secret
