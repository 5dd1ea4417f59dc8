-- The gateway. Phases, in nginx's order:
--   rewrite      identify(): who is it; sets what the rate limit counts by
--   preaccess    nginx's own limit_req
--   access       nginx's own auth_basic (off when somebody was identified: $gateway_realm) and auth_request, then access()
--   balancer     balance(): which instance, again when a connection failed
--   body filter  tap(): tokens and times, without holding anything back
--   log          log(): counts, gives back what the request held
-- refuse() writes every error, those that nginx itself finds too. On the way there nginx forgets ngx.ctx, so a request's state is kept in
-- `states`, under the number in $gateway_state.
local certificate = require "gpufleet.certificate"
local cjson = require "cjson.safe"
local clients = require "gpufleet.clients"
local errors = require "gpufleet.errors"
local lists = require "gpufleet.lists"
local management = require "gpufleet.management"
local metrics = require "gpufleet.metrics"
local models = require "gpufleet.models"
local peers = require "gpufleet.peers"
local policy = require "gpufleet.policy"
local slots = require "gpufleet.slots"
local tap = require "gpufleet.tap"

local ngx, find, match = ngx, string.find, string.match
local floor = math.floor

local M = {}

local reject = errors.reject

local MINUTE, DAY = 60, 86400
-- where a class of route counts as a generation: it holds a slot, spends tokens, and its answer is tapped
local GENERATES = { chat = true, embed = true }

local routing, with_users
local state_of, next_state = {}, 0
local dict

local function read_json(path)
  local file = assert(io.open(path, "rb"))
  local data = assert(cjson.decode(file:read("*a")), path .. " is not JSON")
  file:close()
  return data
end

-- nginx' master process, as root, at each start and reload: the only moment that the clients' file is readable. An error here stops a
-- start, and makes a reload keep the configuration that runs.
function M.init(dir)
  local given = read_json(dir .. "/clients.json")
  routing = read_json(dir .. "/routing.json")
  with_users = #given.users > 0
  local all_clients = clients.init(given)
  models.init(routing.models)
  management.init(given.config_id, all_clients, certificate.expiry(routing.certificate))
  local names = {}
  for _, client in ipairs(all_clients) do names[#names + 1] = client.slot end
  for _, peer in ipairs(peers.init(routing)) do names[#names + 1] = peer.requests end
  slots.init(names)
end

function M.init_worker()
  dict = ngx.shared.gpufleet_gateway
  slots.init_worker(dict)
  peers.init_worker(dict)
  clients.init_worker(ngx.shared.gpufleet_gateway_users)
  metrics.init_worker(ngx.shared.gpufleet_gateway_metrics)
end

function M.identify()
  local var = ngx.var
  next_state = next_state + 1
  local state = { tried = {} }
  state_of[next_state] = state
  var.gateway_state = next_state
  ngx.ctx.state = state
  local client, key = clients.identify(var)
  if client then
    state.client = client
    var.gateway_client, var.gateway_key = client.name, key or ""
    var[client.zone] = client.limit
    var.gateway_realm = "off" -- auth_basic lets the request pass
    return
  end
  -- counted by address: who guesses, and who has yet to prove to be a user
  var[routing.default_zone] = "ip:" .. var.remote_addr
  if clients.oauth2() and not clients.has_password(var) then
    var.gateway_realm, var.gateway_ask = "off", "yes"
  end
end

-- rewrite phase of the location that auth_request leads to
function M.ask_oauth2()
  if ngx.var.gateway_ask == "" then return ngx.exit(204) end
end

-- Who it is, once nginx has let the request pass
local function who(state, var)
  if state.client then return state.client end
  local client
  if var.gateway_ask == "yes" then
    client = clients.oauth2()
    var.gateway_user = var.gateway_oauth2_user
  elseif var.remote_user then
    client = clients.user(var.remote_user, var)
  end
  if not client then return reject(state, 401, "auth") end
  state.client, var.gateway_client = client, client.name
  return client
end

local function check_budget(state, window, key, limit, name)
  if limit == 0 then return end
  local now = ngx.time()
  if (dict:get(key .. floor(now / window)) or 0) >= limit then
    return reject(state, 429, "tokens", "the tokens of this " .. name .. " are used up", window - now % window)
  end
end

-- Where requests of the class admin go: always to the same instance, or to the one that is asked for
local function choose_instance(state, client, route, var)
  local wanted = var.http_x_gateway_instance
  if wanted and client.admin then
    state.fixed = peers.by_id(wanted)
    if not state.fixed then return reject(state, 400, "instance", "X-Gateway-Instance names no instance: give host/instance") end
  elseif route.class == "admin" then
    state.fixed = peers.first(state.pool)
  end
end

-- access phase, after auth_basic and auth_request
function M.access()
  local var = ngx.var
  local state = ngx.ctx.state
  local client = who(state, var)
  local route = routing.routes[var.gateway_route]
  if not route then return reject(state, 404, "path") end
  state.route = route
  if not find(route.methods, " " .. ngx.req.get_method() .. " ", 1, true) then return reject(state, 405, "method") end
  if not client.classes[route.class] then
    return reject(state, 403, "class", "this needs the class " .. route.class)
  end
  state.pool = peers.all()
  if route.body then
    local name = policy.check_body(state, client, route, var)
    if name then policy.check_model(state, client, name, var) end
  elseif var.gateway_id ~= "" then
    policy.check_model(state, client, var.gateway_id, var)
  end
  if GENERATES[route.class] then
    check_budget(state, MINUTE, client.minute, client.tokens_per_minute, "minute")
    check_budget(state, DAY, client.day, client.tokens_per_day, "day")
    if client.concurrency > 0 then
      local count = slots.take(client.slot)
      state.slot = client.slot
      if count > client.concurrency then
        slots.give_back(client.slot)
        state.slot = nil
        return reject(state, 429, "concurrency", "this client has as many generations under way as it may")
      end
    end
  end
  choose_instance(state, client, route, var)
  if not state.fixed and lists.answer(var.gateway_route, client, ngx.req.get_method()) then
    state.answered = true
    return ngx.exit(200)
  end
  if not state.fixed and not peers.any(state.pool) then return reject(state, 503, "upstream") end
end

function M.balance()
  peers.balance(ngx.ctx.state)
end

-- body filter of the classes chat and embed. What fails here must not cost anybody an answer.
local function take_chunk(state)
  local length, last = tap.chunk(state)
  if length > 0 and not state.first then state.first = ngx.now() - ngx.req.start_time() end
  if last then
    state.complete = true
    state.tokens_in, state.tokens_out, state.nanoseconds, state.lines = tap.finish(state)
  end
end

function M.tap()
  local state = ngx.ctx.state
  if not state or not state.peer then return end
  local ok, problem = pcall(take_chunk, state)
  if not ok then ngx.log(ngx.ERR, "the answer was not counted: ", problem) end
end

-- content phase of the location that error_page leads to
function M.refuse()
  local var, header = ngx.var, ngx.header
  local status = var.status
  local state = state_of[tonumber(var.gateway_state)] or {}
  ngx.req.discard_body()
  header["Content-Type"] = "application/json"
  header["Cache-Control"] = "no-store"
  header["Retry-After"] = state.retry_after or errors.retry_after(status)
  if status == "401" then
    -- in place of auth_basic's own; a browser asks for a password only where there can be one
    header["WWW-Authenticate"] = 'Bearer realm="ollama"' .. (with_users and ', Basic realm="ollama"' or "")
  elseif status == "405" and state.route then
    header["Allow"] = match(state.route.methods, "^%s*(.-)%s*$"):gsub(" ", ", ")
  end
  ngx.print(errors.body(status, var.uri or "", state.message))
end

local REASONS = { ["400"] = "request", ["401"] = "auth", ["404"] = "path", ["408"] = "request", ["413"] = "size", ["414"] = "request", ["429"] = "rate",
  ["499"] = "client_abort", ["502"] = "upstream", ["503"] = "upstream", ["504"] = "upstream" }

local function outcome(state, var)
  if state.complete then return state.tokens_in and "complete" or "no_usage" end
  return var.request_completion == "OK" and "upstream_truncated" or "client_abort"
end

-- Tokens of an answer that does not say: each piece of a stream has about one
local function spend(client, tokens)
  local now = ngx.time()
  if client.tokens_per_minute > 0 then dict:incr(client.minute .. floor(now / MINUTE), tokens, 0, 2 * MINUTE) end
  if client.tokens_per_day > 0 then dict:incr(client.day .. floor(now / DAY), tokens, 0, DAY + MINUTE) end
end

local function count_answer(state, var, route)
  local client, model = state.client, state.model or ""
  metrics.observe("h", tonumber(var.request_time) or 0, route, model)
  if not GENERATES[state.route.class] then return end
  if not state.complete then state.tokens_in, state.tokens_out, state.nanoseconds, state.lines = tap.finish(state) end
  metrics.count("o", 1, route, outcome(state, var))
  local into, out = state.tokens_in or 0, state.tokens_out or 0
  metrics.count("t", into, "prompt", client.name, model)
  metrics.count("t", out, "completion", client.name, model)
  if state.nanoseconds and state.nanoseconds > 0 then
    metrics.count("e", state.nanoseconds / 1e9, model)
    metrics.observe("k", out / (state.nanoseconds / 1e9), model)
  end
  if state.first and (state.lines or 0) > 1 then
    metrics.observe("g", state.first, model)
    var.gateway_first_token = ("%.3f"):format(state.first)
  end
  if state.tokens_in then
    var.gateway_tokens_in, var.gateway_tokens_out = into, out
    spend(client, into + out)
  else
    spend(client, state.lines or 0)
  end
end

-- Whether the last attempt got as far as the time says, which is then a number
local function has_time(times)
  return find(times or "", "%d$") ~= nil
end

function M.log()
  local var = ngx.var
  local number = tonumber(var.gateway_state)
  local state = number and state_of[number]
  local status, client = var.status, ""
  local route = var.gateway_route
  if not route or route == "" then route = "other" end
  if state then
    state_of[number] = nil
    client = state.client and state.client.name or ""
    if state.slot then slots.give_back(state.slot) end
    local peer = state.peer
    if peer then peers.finish(state, match(var.upstream_status or "", "(%d*)$"), has_time(var.upstream_connect_time)) end
    -- a 502 may be Ollama's own
    if peer and (status ~= "502" and status ~= "504" or has_time(var.upstream_header_time)) then
      count_answer(state, var, route)
    elseif state.answered then
      metrics.observe("h", tonumber(var.request_time) or 0, route, "")
    else
      local reason = state.reason or REASONS[status] or "other"
      metrics.count("j", 1, reason)
      var.gateway_reason = reason
    end
  elseif route ~= "/health" then
    metrics.count("j", 1, REASONS[status] or "other")
  end
  metrics.count("r", 1, route, status or "000", client)
end

return M
