-- The lists of models: of all instances together, since each has its own, and without what a client may not use.
local body = require "gpufleet.body"
local models = require "gpufleet.models"
local peers = require "gpufleet.peers"

local ngx, concat = ngx, table.concat

local M = {}

local TIMEOUT_MS = 5000

-- path -> what is before the list, its name, the field of a model's name, what is after it
local LISTS = {
  ["/api/tags"] = { '{"models":[', "models", "name", "]}" },
  ["/v1/models"] = { '{"object":"list","data":[', "data", "id", "]}" },
}

local function fetch(peer, path)
  local status, text = peers.get(peer, path, TIMEOUT_MS)
  return status == 200 and text or nil
end

-- The answer, for all instances that are up; nil when none answers.
local function merged(path, client)
  local head, list, key, tail = unpack(LISTS[path])
  local threads, out, seen, any = {}, {}, {}, false
  for _, peer in ipairs(peers.all()) do
    if not peers.problem(peer) then threads[#threads + 1] = ngx.thread.spawn(fetch, peer, path) end
  end
  for _, thread in ipairs(threads) do
    local ok, text = ngx.thread.wait(thread)
    any = any or ok and text ~= nil
    for _, item in ipairs(ok and text and body.items(text, list, key) or {}) do
      local name = models.normalise(tostring(item[2]))
      if not seen[name] and (not client.may_use or client.may_use(name)) then
        seen[name] = true
        out[#out + 1] = item[1]
      end
    end
  end
  return any and head .. concat(out, ",") .. tail or nil
end

-- Answer a request for a list. Returns false when any instance can answer it as well.
function M.answer(path, client, method)
  if not LISTS[path] or #peers.all() == 1 and not client.may_use then return false end
  local text = merged(path, client)
  if not text then return ngx.exit(502) end
  ngx.header["Content-Type"] = "application/json; charset=utf-8"
  ngx.header["Content-Length"] = #text
  if method ~= "HEAD" then ngx.print(text) end
  return true
end

return M
