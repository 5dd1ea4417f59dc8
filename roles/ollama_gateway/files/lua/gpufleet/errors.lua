-- What a refusal looks like, in the form of the API that was called: Ollama's, OpenAI's or Anthropic's.
local cjson = require "cjson.safe"

local ngx, find = ngx, string.find

local M = {}

-- status -> message, OpenAI's type, OpenAI's code, Anthropic's type
local REFUSALS = {
  ["400"] = { "bad request", "invalid_request_error", "bad_request", "invalid_request_error" },
  ["401"] = { "missing or wrong credentials", "invalid_request_error", "invalid_api_key", "authentication_error" },
  ["403"] = { "not allowed", "permission_error", "forbidden", "permission_error" },
  ["404"] = { "not found", "not_found_error", "not_found", "not_found_error" },
  ["405"] = { "method not allowed", "invalid_request_error", "method_not_allowed", "invalid_request_error" },
  ["408"] = { "the request took too long to arrive", "invalid_request_error", "request_timeout", "invalid_request_error" },
  ["411"] = { "a body needs a length", "invalid_request_error", "length_required", "invalid_request_error" },
  ["413"] = { "request body too large", "invalid_request_error", "request_too_large", "request_too_large" },
  ["414"] = { "request line too long", "invalid_request_error", "uri_too_long", "invalid_request_error" },
  ["415"] = { "compressed bodies are not accepted", "invalid_request_error", "unsupported_encoding", "invalid_request_error" },
  ["429"] = { "too many requests", "rate_limit_error", "rate_limit_exceeded", "rate_limit_error" },
  ["500"] = { "internal error", "api_error", "internal_error", "api_error" },
  ["501"] = { "this transfer encoding is not supported", "invalid_request_error", "not_implemented", "invalid_request_error" },
  ["502"] = { "no Ollama instance answers", "api_error", "bad_gateway", "api_error" },
  ["503"] = { "no Ollama instance is available", "api_error", "unavailable", "overloaded_error" },
  ["504"] = { "the Ollama instance took too long to answer", "api_error", "gateway_timeout", "api_error" },
  ["505"] = { "this version of HTTP is not supported", "invalid_request_error", "http_version", "invalid_request_error" },
}
local RETRY_AFTER = { ["429"] = 1, ["502"] = 5, ["503"] = 5, ["504"] = 5 }

-- A body as JSON text. Without a message, the one that the status has.
function M.body(status, uri, message)
  local refusal = REFUSALS[status] or REFUSALS["500"]
  -- quoted and escaped: it may name the model that was asked for
  local text = cjson.encode(message or refusal[1])
  if find(uri, "/v1/messages", 1, true) == 1 then
    return ('{"type":"error","error":{"type":"%s","message":%s}}\n'):format(refusal[4], text)
  elseif find(uri, "/v1/", 1, true) == 1 then
    return ('{"error":{"message":%s,"type":"%s","param":null,"code":"%s"}}\n'):format(text, refusal[2], refusal[3])
  end
  return ('{"error":%s}\n'):format(text)
end

-- Refuse a request: the status leads to the location that writes the body. The reason is a label of a metric. Does not return.
function M.reject(state, status, reason, message, retry_after)
  state.reason, state.message, state.retry_after = reason, message, retry_after
  return ngx.exit(status)
end

function M.retry_after(status)
  return RETRY_AFTER[status]
end

return M
