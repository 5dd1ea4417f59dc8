# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stand-in's endpoints for models and blobs: tags, show, pull, push, copy, delete, blobs; and what says who it is."""
from __future__ import annotations

import http.client
import threading
from typing import Any, Callable

from . import names
from .exchange import JSON, TEXT, ApiError, ClientGone, Exchange, take
from .inference import CLOUD_DETAILS, find, refuse_cloud
from .model import from_manifest
from .pull import Cancelled, push
from .store import BadManifest, InvalidDigest
from .transfer import TransferError


def root(exchange: Exchange) -> None:
    """GET /"""
    exchange.send(200, b"Ollama is running", TEXT + "; charset=utf-8")


def version(exchange: Exchange) -> None:
    """GET /api/version"""
    exchange.send_json({"version": exchange.app.settings.version})


def status(exchange: Exchange) -> None:
    """GET /api/status"""
    exchange.send_json({"cloud": exchange.app.settings.cloud})


def list_models(exchange: Exchange) -> list[dict[str, Any]]:
    """The models of /api/tags, newest first; the tree is read anew each time."""
    if exchange.app.settings.hide_models:
        return []
    entries = []
    store = exchange.app.store
    for manifest in sorted(store.manifests().values(), key=lambda found: -found.modified):
        try:
            entries.append(from_manifest(store, manifest).list_entry())
        except (OSError, ValueError, KeyError):
            # A manifest whose config is gone or unreadable is left out, the others are shown.
            continue
    return entries


def tags(exchange: Exchange) -> None:
    """GET /api/tags"""
    exchange.send_json({"models": list_models(exchange)})


def show(exchange: Exchange) -> None:
    """POST /api/show"""
    body = exchange.json()
    exchange.send_json(show_model(exchange, body))


def show_model(exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
    """The answer of /api/show; other dialects use it, too."""
    text = take(body, "model", str, "") or take(body, "name", str, "")
    if not text:
        raise ApiError(400, "model is required")
    try:
        base, source = names.split_source(text)
    except names.ConflictingSuffix as error:
        raise ApiError(400, str(error)) from error
    name = names.parse(base)
    if not name.is_valid:
        raise ApiError(400, "invalid model name")
    if source == "cloud":
        refuse_cloud(exchange, CLOUD_DETAILS)
    name = exchange.app.store.existing(name)
    model = find(exchange, name, ApiError(404, f"model '{name.display}' not found"))
    return model.show(take(body, "system", str, ""), take(body, "verbose", bool, False))


def delete(exchange: Exchange) -> None:
    """DELETE /api/delete; the answer has no body."""
    body = exchange.json()
    text = take(body, "model", str, "") or take(body, "name", str, "")
    if not text.strip():
        raise ApiError(400, "model is required")
    try:
        name = names.parse(names.pull_name(text))
    except names.ConflictingSuffix as error:
        raise ApiError(400, str(error)) from error
    if not name.is_valid:
        raise ApiError(400, f'name "{text}" is invalid')
    store = exchange.app.store
    try:
        store.delete(store.existing(name))
    except FileNotFoundError as error:
        raise ApiError(404, f"model '{text}' not found") from error
    except (OSError, BadManifest) as error:
        raise ApiError(500, str(error)) from error
    exchange.send(200, b"")


def copy(exchange: Exchange) -> None:
    """POST /api/copy; the answer has no body."""
    body = exchange.json()
    store = exchange.app.store
    parsed = []
    for key in ("source", "destination"):
        text = take(body, key, str, "")
        name = names.parse(text)
        if not name.is_valid:
            raise ApiError(400, f'{key} "{text}" is invalid')
        parsed.append(store.existing(name))
    try:
        store.copy(*parsed)
    except FileNotFoundError as error:
        raise ApiError(404, f'model "{body["source"]}" not found') from error
    except (OSError, BadManifest) as error:
        raise ApiError(500, str(error)) from error
    exchange.send(200, b"")


def head_blob(exchange: Exchange) -> None:
    """HEAD /api/blobs/<digest>"""
    try:
        there = exchange.app.store.blob_path(exchange.parameter).exists()
    except InvalidDigest as error:
        raise ApiError(400, str(error)) from error
    if not there:
        raise ApiError(404, f'blob "{exchange.parameter}" not found')
    exchange.send(200, b"")


def post_blob(exchange: Exchange) -> None:
    """POST /api/blobs/<digest>: 201 stored, 200 already there; wrong bytes are kept under their true digest."""
    store = exchange.app.store
    try:
        path = store.blob_path(exchange.parameter)
    except InvalidDigest as error:
        raise ApiError(400, str(error)) from error
    if path.exists():
        exchange.send(200, b"")
        return
    try:
        digest, _size, _new = store.add_blob(*exchange.body_stream())
    except OSError as error:
        raise ApiError(500, str(error)) from error
    if digest != exchange.parameter:
        raise ApiError(400, f'digest mismatch, expected "{exchange.parameter}", got "{digest}"')
    exchange.send(201, b"")


def pull(exchange: Exchange) -> None:
    """POST /api/pull"""
    body = exchange.json()
    text = take(body, "model", str, "") or take(body, "name", str, "")
    try:
        name = names.parse(names.pull_name(text))
    except names.ConflictingSuffix as error:
        raise ApiError(400, str(error)) from error
    if not text.strip() or not name.is_valid:
        raise ApiError(400, "invalid model name")
    name = exchange.app.store.existing(name)
    insecure = take(body, "insecure", bool, False)
    progress(exchange, body, lambda tell: exchange.app.puller.pull(name, insecure, tell, lambda: not exchange.gone()))


def push_model(exchange: Exchange) -> None:
    """POST /api/push"""
    body = exchange.json()
    text = take(body, "model", str, "") or take(body, "name", str, "")
    if not text:
        raise ApiError(400, "model is required")
    name = exchange.app.store.existing(names.parse(text))
    progress(exchange, body, lambda tell: push(exchange.app.puller, name, take(body, "insecure", bool, False), tell))


def progress(exchange: Exchange, body: dict[str, Any], work: Callable[[Callable[[dict[str, Any]], None]], None]) -> None:
    """Run long work: each status as a line, or with `stream: false` only the last one or the error."""
    stream = take(body, "stream", bool, True)
    exchange.error_type = JSON.partition(";")[0]
    last: dict[str, Any] = {"status": ""}
    lock = threading.Lock()

    def tell(content: dict[str, Any]) -> None:
        with lock:
            last.clear()
            last.update(content)
            if stream:
                exchange.line(content)

    try:
        work(tell)
    except (Cancelled, ClientGone) as error:
        raise ClientGone from error
    except (TransferError, OSError, ValueError, http.client.HTTPException) as error:
        raise ApiError(500, str(error)) from error
    if not stream:
        exchange.send_json(last, 200, exchange.error_type)


def no_account(exchange: Exchange) -> None:
    """POST /api/me: a stand-in has no account and nobody to ask."""
    raise ApiError(503, "account unavailable")


def sign_out(exchange: Exchange) -> None:
    """POST /api/signout"""
    raise ApiError(500, "there was an error signing out")


def recommendations(exchange: Exchange) -> None:
    """GET /api/experimental/model-recommendations"""
    exchange.send_json({"recommendations": []})


def web(exchange: Exchange) -> None:
    """POST /api/experimental/web_search and web_fetch"""
    exchange.json()
    refuse_cloud(exchange, f"{exchange.path.rpartition('/')[2].replace('_', ' ')} is unavailable")
