-- The Ollama instances: which may be asked, and which one is.
--
-- An instance is left out while it is drained (a file of its host's name is in the directory, read once a second), while its last probe
-- found it down, or for a while after several failed connections. Where nobody else is left, those that seem down are tried all the
-- same; drained ones never. Counts of running requests are shared by all workers and all models.
local balancer = require "ngx.balancer"
local ffi = require "ffi"
local metrics = require "gpufleet.metrics"
local slots = require "gpufleet.slots"

local ngx, ipairs, max, random = ngx, ipairs, math.max, math.random

local M = {}

local PROBE_SECONDS, PROBE_TIMEOUT_MS = 5, 2000
-- a probe that fails once may have met a busy host
local PROBE_FAILURES = 2

local settings, peers, by_id, hosts
local dict
local drained = {} -- host -> true

ffi.cdef [[
  struct gpufleet_addrinfo {
    int flags, family, socktype, protocol; unsigned int length; void *address; char *canonical; struct gpufleet_addrinfo *next;
  };
  int getaddrinfo(const char *node, const char *service, const struct gpufleet_addrinfo *hints, struct gpufleet_addrinfo **list);
  void freeaddrinfo(struct gpufleet_addrinfo *list);
  int getnameinfo(const void *address, unsigned int length, char *host, unsigned int size, char *service, unsigned int, int flags);
]]

-- The address of a host, as /etc/hosts and the name servers know it. Blocks: for the master only.
local function resolve(name)
  local hints = ffi.new("struct gpufleet_addrinfo", { socktype = 1 })
  local list = ffi.new("struct gpufleet_addrinfo *[1]")
  if ffi.C.getaddrinfo(name, nil, hints, list) ~= 0 then
    error("the address of the Ollama host " .. name .. " cannot be found", 0)
  end
  local text = ffi.new("char[64]")
  local failed = ffi.C.getnameinfo(list[0].address, list[0].length, text, 64, nil, 0, 1)
  ffi.C.freeaddrinfo(list[0])
  assert(failed == 0, "the address of " .. name .. " cannot be read")
  local address = ffi.string(text)
  return address:find(":", 1, true) and "[" .. address .. "]" or address
end

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

local function read_drained()
  for host in pairs(hosts) do
    drained[host] = exists(settings.drained_dir .. "/" .. host) or nil
  end
end

-- master: `given` is routing.json
function M.init(given)
  settings, peers, by_id, hosts = given, {}, {}, {}
  for index, peer in ipairs(given.peers) do
    peer.index = index
    peer.address = resolve(peer.address)
    peer.requests, peer.down, peer.probed, peer.failures = "n:" .. peer.id, "x:" .. peer.id, "h:" .. peer.id, "f:" .. peer.id
    peers[index], by_id[peer.id], hosts[peer.host] = peer, peer, true
  end
  read_drained()
  return peers
end

-- Why an instance gets no requests: "drained", "down", or nil
function M.problem(peer)
  if drained[peer.host] then return "drained" end
  if dict:get(peer.down) or (dict:get(peer.probed) or 0) >= PROBE_FAILURES then return "down" end
end

function M.all() return peers end

function M.by_id(id) return by_id[id] end

-- The instances that serve a model: a list of peers
function M.pool_of(model)
  local pool = settings.pools[model]
  if not pool then return peers end
  if type(pool[1]) == "number" then -- as read from the file
    for i, index in ipairs(pool) do pool[i] = peers[index] end
  end
  return pool
end

-- Whether a request may be sent anywhere
function M.any(pool)
  for _, peer in ipairs(pool) do
    if not drained[peer.host] then return true end
  end
  return false
end

-- The first one in order that is up, for what must always go to the same instance
function M.first(pool)
  local second
  for _, peer in ipairs(pool) do
    local problem = M.problem(peer)
    if not problem then return peer end
    if problem == "down" then second = second or peer end
  end
  return second
end

local function least_requests(candidates)
  local best, best_load
  local count = #candidates
  local offset = random(count) -- no favourite among equals
  for i = 0, count - 1 do
    local peer = candidates[(offset + i) % count + 1]
    local load = (slots.count(peer.requests) + 1) / peer.weight
    if not best or load < best_load then best, best_load = peer, load end
  end
  return best
end

local function by_weight(candidates, number)
  local total = 0
  for _, peer in ipairs(candidates) do total = total + peer.weight end
  number = number % total
  for _, peer in ipairs(candidates) do
    number = number - peer.weight
    if number < 0 then return peer end
  end
end

local METHODS = {
  least_conn = least_requests,
  -- nginx' smooth weighted round robin, for each worker
  round_robin = function(candidates)
    local best
    local total = 0
    for _, peer in ipairs(candidates) do
      total = total + peer.weight
      peer.current = (peer.current or 0) + peer.weight
      if not best or peer.current > best.current then best = peer end
    end
    best.current = best.current - total
    return best
  end,
  -- as in nginx, an IPv4 network of 256 addresses counts as one client
  ip_hash = function(candidates)
    local address = ngx.var.remote_addr
    return by_weight(candidates, ngx.crc32_short(address:match("^(%d+%.%d+%.%d+)%.%d+$") or address))
  end,
  random = function(candidates)
    local one = by_weight(candidates, random(1000000))
    local other = by_weight(candidates, random(1000000))
    return (slots.count(other.requests) + 1) / other.weight < (slots.count(one.requests) + 1) / one.weight and other or one
  end,
}

-- Choose one of a pool, without those in `tried`. Returns it, and whether there is another one.
local function choose(pool, tried)
  local primary, backup, last = {}, {}, {}
  for _, peer in ipairs(pool) do
    if not tried[peer.id] then
      local problem = M.problem(peer)
      if problem == "down" then
        last[#last + 1] = peer
      elseif not problem then
        local list = peer.backup and backup or primary
        list[#list + 1] = peer
      end
    end
  end
  local list = #primary > 0 and primary or #backup > 0 and backup or last
  if #list == 0 then return nil, false end
  local peer = #list == 1 and list[1] or METHODS[settings.balance](list)
  return peer, #primary + #backup + #last > 1
end
M.choose = choose

-- A connection to an instance failed.
function M.failed(peer)
  metrics.count("f", 1, peer.host, peer.instance)
  local count = dict:incr(peer.failures, 1, 0, settings.fail_timeout) or 0
  if settings.max_fails > 0 and count >= settings.max_fails then
    dict:set(peer.down, true, settings.fail_timeout)
  end
end

-- balancer phase, again for each attempt. `state` is the request's: pool, or the peer that it must go to.
function M.balance(state)
  if state.peer then
    -- only connections that failed come here a second time: see proxy_next_upstream
    slots.give_back(state.peer.requests)
    M.failed(state.peer)
  end
  local tried = state.tried
  local peer, more = state.fixed, false
  if peer then
    if tried[peer.id] then peer = nil end
  else
    peer, more = choose(state.pool, tried)
  end
  state.peer = peer
  if not peer then return ngx.exit(502) end
  tried[peer.id] = true
  slots.take(peer.requests)
  if more then balancer.set_more_tries(1) end
  assert(balancer.set_current_peer(peer.address, peer.port))
end

-- log phase. `status` and `connected` are those of the last attempt.
function M.finish(state, status, connected)
  local peer = state.peer
  if not peer then return end
  slots.give_back(peer.requests)
  if (status == "502" or status == "504") and not connected then
    M.failed(peer)
  end
end

-- An answer of an instance over HTTP/1.0, which Ollama closes. Returns status and body, or nil and why.
function M.get(peer, path, timeout)
  local socket = ngx.socket.tcp()
  socket:settimeouts(timeout, timeout, timeout)
  local ok, problem = socket:connect(peer.address, peer.port)
  if not ok then return nil, problem end
  socket:send("GET " .. path .. " HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")
  local answer, _, partial = socket:receive("*a")
  socket:close()
  answer = answer or partial or ""
  local status = answer:match("^HTTP/1%.[01] (%d%d%d)")
  local _, head_end = answer:find("\r\n\r\n", 1, true)
  if not status or not head_end then return nil, "no answer" end
  return tonumber(status), answer:sub(head_end + 1)
end

local function probe(peer)
  local status = M.get(peer, "/api/version", PROBE_TIMEOUT_MS)
  if status == 200 then
    dict:delete(peer.probed)
    dict:delete(peer.down)
  else
    dict:incr(peer.probed, 1, 0)
  end
end

local function probe_all(premature)
  if premature then return end
  slots.janitor()
  local threads = {}
  for index, peer in ipairs(peers) do threads[index] = ngx.thread.spawn(probe, peer) end
  for _, thread in ipairs(threads) do ngx.thread.wait(thread) end
end

-- each worker, at its start
function M.init_worker(shared)
  dict = shared
  -- else all workers, forked from one process, would choose alike
  math.randomseed(ngx.worker.pid() + ngx.time())
  assert(ngx.timer.every(1, function(premature) if not premature then read_drained() end end))
  -- the others see what it found in the shared memory
  if ngx.worker.id() == 0 then
    assert(ngx.timer.at(0, probe_all))
    assert(ngx.timer.every(PROBE_SECONDS, probe_all))
  end
end

-- A list of what is known of each instance
function M.report()
  local list = {}
  for index, peer in ipairs(peers) do
    list[index] = {
      host = peer.host, instance = peer.instance, server = peer.server, backup = peer.backup, weight = peer.weight,
      state = M.problem(peer) or "up", inflight = slots.count(peer.requests),
      -- the count may be of another worker set, before a reload
      probe_failures = max(dict:get(peer.probed) or 0, 0),
    }
  end
  return list
end

function M.usable()
  local count = 0
  for _, peer in ipairs(peers) do
    if not M.problem(peer) then count = count + 1 end
  end
  return count
end

return M
