"""body.lua reads a request as Ollama will."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

FIELDS = ("model", "name", "stream", "keep_alive", "options", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens")
OPTIONS = ("num_predict", "num_ctx", "num_gpu", "main_gpu", "num_thread", "num_batch", "use_mmap")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("{}", {}),
        (' \n\t{ } trailing', {}),
        ('{"model":"a"}', {"model": "a"}),
        ('{"model" : "a" , "stream":false,"keep_alive":-1}{"model":"b"}', {"model": "a", "stream": False, "keep_alive": -1}),
        (r'{"mod\u0065l":"\u0061\/b\\"}', {"model": "a/b\\"}),
        (r'{"x":"\\","model":"a"}', {"model": "a"}),
        (r'{"x":"\\\"","model":"a\"}"}', {"model": 'a"}'}),
        ('{"messages":[{"model":"x","content":"}]\\"{"}],"model":"a"}', {"model": "a"}),
        ('{"format":{"model":"x","options":{"num_ctx":1}},"model":"ä"}', {"model": "ä"}),
        ('{"model":null,"options":null}', {"model": None, "options": None}),
        ('{"options":{}}', {"options": {}}),
        ('{"options":{"num_ctx":1e3,"NUM_CTX":9,"stop":["}"],"num_gpu":null}}', {"options": {"num_ctx": 1000, "num_gpu": None}}),
        ('{"options":{"num_predict":[1],"use_mmap":true}}', {"options": {"num_predict": ..., "use_mmap": True}}),
        ('{"model":["a"],"stream_options":{"include_usage":true}}', {"model": ..., "stream_options": ...}),
    ],
)
def test_fields(read_body: Callable[[str], Any], text: str, fields: dict) -> None:
    assert read_body(text) == fields


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must be a JSON object"), ("[]", "must be a JSON object"), ('"model"', "must be a JSON object"), ("\ufeff{}", "must be a JSON object"),
        ('{"model":"a","model":"b"}', "model is there twice"),
        (r'{"model":"a","mode\u006c":"b"}', "model is there twice"),
        ('{"model":"a","MODEL":"b"}', "write the field model in lower case"),
        ('{"Options":{}}', "write the field options in lower case"),
        (r'{"model":"a","\u004dodel":"b"}', "write the field model in lower case"),
        # Go folds them: a long s is an s, the sign of Kelvin a k
        ('{"\u017ftream":true}', "not ASCII"), (r'{"\u212aeep_alive":0}', "not ASCII"), ('{"model":"a","ä":1}', "not ASCII"),
        ('{"options":{"num_ctx":1,"num_ctx":2}}', "num_ctx is there twice"),
        ('{"options":{"num_ctx":1},"options":{}}', "options is there twice"),
        ('{"options":[]}', "options must be an object"), ('{"options":1}', "options must be an object"),
        ('{"model":"a"', "no end"), ('{"model":"a', "no end"), ('{"x":[{"y":1}', "no end"), ('{"model":', "no end"), ("{", "no end"), ('{"a":1', "no end"),
        ('{,"model":"a"}', "no valid JSON"), ('{"model":"a",}', "no valid JSON"), ("{model:1}", "no valid JSON"), ('{"model"}', "no valid JSON"),
        (r'{"\ud800":1}', "no valid JSON"), (r'{"\x":1}', "no valid JSON"),
    ],
)
def test_refused(read_body: Callable[[str], Any], text: str, sentence: str) -> None:
    found = read_body(text)
    assert isinstance(found, str) and sentence in found


def some_value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value; its strings hold what is hard to scan."""
    kind = rng.randrange(7 if depth < 3 else 5)
    if kind < 2:
        return "".join(rng.choice('a"\\{}[]:, \n\u00e9\u2028\U0001f600mdl') for _unused in range(rng.randrange(8)))
    if kind == 2:
        return rng.choice([0, -1, 17, 2.5, 1e9])
    if kind < 5:
        return rng.choice([True, False, None])
    if kind == 5:
        return [some_value(rng, depth + 1) for _unused in range(rng.randrange(4))]
    return {f"k{number}" if rng.random() < 0.5 else rng.choice(FIELDS + OPTIONS): some_value(rng, depth + 1) for number in range(rng.randrange(4))}


def some_document(rng: random.Random) -> tuple[dict[str, Any], str]:
    """A request, and its text in some spelling."""
    data = {name: some_value(rng) for name in rng.sample(FIELDS, rng.randrange(5)) if name != "options"}
    data.update({f"x{number}": some_value(rng) for number in range(rng.randrange(4))})
    if rng.random() < 0.7:
        data["options"] = {name: some_value(rng, 3) for name in rng.sample([*OPTIONS, "seed", "stop"], rng.randrange(5))}
    data = dict(rng.sample(list(data.items()), len(data)))
    text = json.dumps(data, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]), separators=rng.choice([(",", ":"), (" , ", " : ")]))
    return data, text


def same(read: Any, value: Any) -> bool:
    """Whether a value was read right; objects and lists are not read."""
    return read is ... if isinstance(value, (dict, list)) else type(read) is type(value) and read == value or read == value and isinstance(value, (int, float))


def test_valid_documents_are_read_as_python_reads_them(read_body: Callable[[str], Any]) -> None:
    rng = random.Random(1)
    for _unused in range(1500):
        data, text = some_document(rng)
        found = read_body(text)
        assert set(found) == set(data) & set(FIELDS), text
        for name, value in found.items():
            if name == "options":
                assert set(value) == set(data["options"]) & set(OPTIONS), text
                assert all(same(value[option], data["options"][option]) for option in value), text
            else:
                assert same(value, data[name]), (name, text)


def test_a_cap_is_there_when_it_was_written(lua: Any) -> None:
    rng, body = random.Random(2), lua.module("body")
    for _unused in range(800):
        data, text = some_document(rng)
        for write, name in ((body.write_option, "num_predict"), (body.write_number, "max_tokens")):
            raw = text.encode("utf-8").decode("latin-1")
            written = json.loads(write(raw, body.read(raw), name, 77).encode("latin-1").decode("utf-8"))
            wanted = {**data, "max_tokens": 77} if name == "max_tokens" else {**data, "options": {**(data.get("options") or {}), name: 77}}
            assert written == wanted, text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{}", '{"options":{"num_predict":5}}'), ("{ }", '{"options":{"num_predict":5} }'), ('{"a":1}', '{"options":{"num_predict":5},"a":1}'),
        ('{"options":null}', '{"options":{"num_predict":5}}'), ('{"options":{}}', '{"options":{"num_predict":5}}'),
        ('{"options":{ "seed":1}}', '{"options":{"num_predict":5, "seed":1}}'), ('{"options":{"num_predict":null}} x', '{"options":{"num_predict":5}} x'),
    ],
)
def test_how_a_cap_is_written(lua: Any, text: str, wanted: str) -> None:
    body = lua.module("body")
    assert body.write_option(text, body.read(text), "num_predict", 5) == wanted


def go_reads(text: str, field: str) -> Any:
    """The value of a field of a Go struct, after encoding/json: the name in any case, by Unicode's simple folding, the last one wins."""
    def fold(name: str) -> str:
        return "".join({"\u017f": "s", "\u212a": "k"}.get(char, char.lower()) for char in name)

    value = None
    for name, given in json.JSONDecoder(object_pairs_hook=list).raw_decode(text.lstrip())[0]:
        if fold(name) == field and given is not None:  # null leaves the field as it was
            value = given
    return value


def test_whatever_is_let_through_means_the_same_to_go(read_body: Callable[[str], Any]) -> None:
    rng = random.Random(3)
    letters = {"m": ["m", "M", "\\u006d"], "o": ["o", "O", "\\u004f"], "d": ["d", "D"], "e": ["e", "\\u0065"], "l": ["l", "L", "\\u004c"],
               "s": ["s", "S", "\u017f", "\\u017f"], "k": ["k", "\u212a"]}
    accepted = 0
    for _unused in range(4000):
        parts = []
        for _unused in range(rng.randrange(1, 4)):
            word = rng.choice(["model", "model", "name", "stream", "modèle", "keep_alive", "x"])
            plain = rng.random() < 0.6
            name = "".join(char if plain else rng.choice(letters.get(char, [char])) for char in word)
            parts.append(f'"{name}":{rng.choice(["1", "null", chr(34) + "a" + chr(34), chr(34) + "b" + chr(34), "[]"])}')
        text = "{" + ",".join(parts) + "}" + rng.choice(["", ' {"model":"z"}', "garbage"])
        found = read_body(text)
        if isinstance(found, str):
            continue
        accepted += 1
        for field in ("model", "name", "keep_alive", "stream"):
            go = go_reads(text, field)
            assert (found.get(field) is ... and go == []) or found.get(field) == go, text
    assert accepted > 500
