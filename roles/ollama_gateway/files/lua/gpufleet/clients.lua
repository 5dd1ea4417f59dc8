-- Who calls, and what they may do: clients.json, which only root reads, in nginx' master process.
local ffi = require "ffi"
local models = require "gpufleet.models"

local ngx, find, match = ngx, string.find, string.match

-- nginx itself is linked with libcrypto
ffi.cdef [[ unsigned char *SHA256(const unsigned char *d, size_t n, unsigned char *md); ]]

local M = {}

local digest = ffi.new("unsigned char[32]")

local function sha256(text)
  ffi.C.SHA256(text, #text, digest)
  return ffi.string(digest, 32)
end
M.sha256 = sha256

local function from_hex(hex)
  return (hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local by_key, by_subject, by_user = {}, {}, {}
local oauth2, config_id, dict

-- A client of the file as it is used: sets in place of lists, keys and names that are made once
local function prepared(given, prefix)
  local client = {
    name = given.name, classes = {}, zone = "gateway_limit_" .. given.zone, limit = prefix .. given.name,
    slot = "c:" .. given.name, minute = "m:" .. given.name .. ":", day = "d:" .. given.name .. ":",
    concurrency = given.concurrency, max_predict = given.max_predict, max_context = given.max_context,
    tokens_per_minute = given.tokens_per_minute, tokens_per_day = given.tokens_per_day,
  }
  for _, class in ipairs(given.classes) do client.classes[class] = true end
  if #given.models > 0 then client.may_use = models.matcher(given.models) end
  client.admin = client.classes.admin
  return client
end

-- master
function M.init(given)
  by_key, by_subject, by_user, oauth2 = {}, {}, {}, nil
  config_id = given.config_id
  local all = {}
  for _, item in ipairs(given.clients) do
    local client = prepared(item, "k:")
    all[#all + 1] = client
    for _, key in ipairs(item.keys) do
      assert(#key.sha256 == 64 and match(key.sha256, "^%x+$"), "bad sha256 of " .. item.name)
      by_key[from_hex(key.sha256)] = { client = client, expires = key.expires, id = key.sha256:sub(1, 8) }
    end
    if item.certificate ~= "" then by_subject[item.certificate] = client end
  end
  for _, item in ipairs(given.users) do
    by_user[item.name] = prepared(item, "k:")
    all[#all + 1] = by_user[item.name]
  end
  if type(given.oauth2) == "table" then -- else null
    oauth2 = prepared(given.oauth2, "k:")
    all[#all + 1] = oauth2
  end
  return all
end

-- each worker
function M.init_worker(shared)
  dict = shared
end

local function of_key(key)
  local found = key and #key <= 256 and by_key[sha256(key)]
  if found and (found.expires == 0 or ngx.time() < found.expires) then return found.client, found.id end
end

-- The key of the header x-api-key. Two such headers are none: nginx versions differ in what they make of them.
local function header_key(value)
  if value and type(ngx.req.get_headers()["x-api-key"]) == "string" then return value end
end

-- The client that a request proves to be from, and the id of its key; or nil.
function M.identify(var)
  local authorization = var.http_authorization
  local bearer = authorization and match(authorization, "^[Bb][Ee][Aa][Rr][Ee][Rr] +(%S+)$")
  local client, id = of_key(bearer)
  if not client then client, id = of_key(header_key(var.http_x_api_key)) end
  if client then return client, id end
  if next(by_subject) and var.ssl_client_verify == "SUCCESS" then return by_subject[var.ssl_client_s_dn] end
  -- a password that nginx checked less than a minute ago
  local user = authorization and match(authorization, "^[Bb][Aa][Ss][Ii][Cc] ") and dict:get(sha256(config_id .. authorization))
  return user and by_user[user]
end

-- Whether a request has a password to check
function M.has_password(var)
  local authorization = var.http_authorization
  return authorization and find(authorization, "^[Bb][Aa][Ss][Ii][Cc] ") ~= nil
end

-- The user whose password nginx just checked
function M.user(name, var)
  local user = by_user[name]
  -- nginx does nothing else while it checks a password
  if user then dict:set(sha256(config_id .. var.http_authorization), name, 60) end
  return user
end

function M.oauth2() return oauth2 end

return M
