-- The gateway's access control. Phases, in nginx's order:
--   rewrite   identify(): whose key is it; sets what the rate limit counts by
--   preaccess nginx's own limit_req
--   access    nginx's own auth_basic (off when a key was valid: $gateway_realm), then access(): method
--   content   the proxy, health() or not_found(); refuse() writes every error that nginx itself gives
-- State that an internal redirect must not lose is in nginx variables ($gateway_*), not in ngx.ctx.
local cjson = require "cjson.safe"
local ffi = require "ffi"

local ngx, find, match = ngx, string.find, string.match

-- nginx itself is linked with libcrypto
ffi.cdef [[ unsigned char *SHA256(const unsigned char *d, size_t n, unsigned char *md); ]]

local M = {}

local clients = {} -- binary SHA-256 of a key -> client
local settings = {}

local digest = ffi.new("unsigned char[32]")

local function sha256(text)
  ffi.C.SHA256(text, #text, digest)
  return ffi.string(digest, 32)
end

local function from_hex(hex)
  return (hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

function M.init(path)
  local file = assert(io.open(path, "rb"))
  local data = assert(cjson.decode(file:read("*a")), path .. " is not JSON")
  file:close()
  settings = { config_id = assert(data.config_id), users = data.users == true }
  clients = {}
  for _, client in ipairs(data.clients) do
    assert(match(client.sha256, "^%x+$") and #client.sha256 == 64, "bad sha256 of " .. client.name)
    clients[from_hex(client.sha256)] = client
  end
end

local function client_of(key)
  return key and #key <= 256 and clients[sha256(key)] or nil
end

-- rewrite phase: who is it? Refuses nobody, so that limit_req also counts those who guess.
function M.identify()
  local var = ngx.var
  local authorization = var.http_authorization
  local bearer = authorization and match(authorization, "^[Bb][Ee][Aa][Rr][Ee][Rr] +(%S+)$")
  local client = client_of(bearer) or client_of(var.http_x_api_key)
  if client then
    var.gateway_client = client.name
    var.gateway_limit = "k:" .. client.name
    var.gateway_realm = "off" -- auth_basic lets the request pass
  else
    var.gateway_limit = "ip:" .. var.remote_addr
  end
end

-- access phase, after auth_basic: only those who proved who they are come here
function M.access(allow)
  local var = ngx.var
  if var.gateway_client == "" then
    var.gateway_client = var.remote_user
  end
  if not find(allow, " " .. ngx.req.get_method() .. " ", 1, true) then
    var.gateway_allow = allow
    return ngx.exit(405)
  end
end

-- content phase
function M.not_found()
  return ngx.exit(404)
end

function M.health()
  ngx.header["Content-Type"] = "application/json"
  ngx.header["Cache-Control"] = "no-store"
  ngx.header["X-Gateway-Config"] = settings.config_id
  ngx.req.discard_body()
  ngx.print('{"status":"ok"}\n')
end

-- status -> message, OpenAI's type, OpenAI's code, Anthropic's type
local REFUSALS = {
  ["401"] = { "missing or wrong credentials", "invalid_request_error", "invalid_api_key", "authentication_error" },
  ["403"] = { "not allowed", "permission_error", "forbidden", "permission_error" },
  ["404"] = { "not found", "not_found_error", "not_found", "not_found_error" },
  ["405"] = { "method not allowed", "invalid_request_error", "method_not_allowed", "invalid_request_error" },
  ["413"] = { "request body too large", "invalid_request_error", "request_too_large", "request_too_large" },
  ["429"] = { "too many requests", "rate_limit_error", "rate_limit_exceeded", "rate_limit_error" },
  ["500"] = { "internal error", "api_error", "internal_error", "api_error" },
  ["502"] = { "no Ollama instance answers", "api_error", "bad_gateway", "api_error" },
  ["503"] = { "not available", "api_error", "unavailable", "overloaded_error" },
  ["504"] = { "the Ollama instance took too long to answer", "api_error", "gateway_timeout", "api_error" },
}
local RETRY_AFTER = { ["429"] = 1, ["502"] = 5, ["503"] = 5, ["504"] = 5 }

-- The body of an error in the form of the API that was called: Ollama's, OpenAI's or Anthropic's.
-- Every text is our own constant, so nothing needs escaping.
function M.error_body(status, uri)
  local refusal = REFUSALS[status] or REFUSALS["500"]
  if find(uri, "/v1/messages", 1, true) == 1 then
    return ('{"type":"error","error":{"type":"%s","message":"%s"}}\n'):format(refusal[4], refusal[1])
  elseif find(uri, "/v1/", 1, true) == 1 then
    return ('{"error":{"message":"%s","type":"%s","param":null,"code":"%s"}}\n'):format(refusal[1], refusal[2], refusal[3])
  end
  return ('{"error":"%s"}\n'):format(refusal[1])
end

-- content phase of the location that error_page leads to
function M.refuse()
  local var, header = ngx.var, ngx.header
  local status = var.status
  ngx.req.discard_body()
  header["Content-Type"] = "application/json"
  header["Cache-Control"] = "no-store"
  header["Retry-After"] = RETRY_AFTER[status]
  if status == "401" then
    -- in place of auth_basic's own; a browser asks for a password only where there can be one
    header["WWW-Authenticate"] = 'Bearer realm="ollama"' .. (settings.users and ', Basic realm="ollama"' or "")
  elseif status == "405" then
    header["Allow"] = match(var.gateway_allow, "^%s*(.-)%s*$"):gsub(" ", ", ")
  end
  ngx.print(M.error_body(status, var.uri))
end

return M
