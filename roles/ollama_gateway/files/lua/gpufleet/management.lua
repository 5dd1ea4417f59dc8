-- What the gateway says of itself: /health to everybody, the rest on the management address only.
local cjson = require "cjson.safe"
local metrics = require "gpufleet.metrics"
local peers = require "gpufleet.peers"
local slots = require "gpufleet.slots"

local ngx, match = ngx, string.match

local M = {}

local config_id, clients, expiry

-- master: the id of the configuration, all clients, and when the certificate ends (seconds since 1970, or nil)
function M.init(id, all_clients, certificate_expiry)
  config_id, clients, expiry = id, all_clients, certificate_expiry
end

function M.health()
  local up = peers.usable() > 0
  ngx.status = up and 200 or 503
  ngx.header["Content-Type"] = "application/json"
  ngx.header["Cache-Control"] = "no-store"
  ngx.header["X-Gateway-Config"] = config_id
  ngx.req.discard_body()
  ngx.print(up and '{"status":"ok"}\n' or '{"status":"down"}\n')
end

local function answer(status, data)
  ngx.status = status
  ngx.header["Content-Type"] = "application/json"
  ngx.print(cjson.encode(data), "\n")
end

function M.ready()
  local usable = peers.usable()
  answer(usable > 0 and 200 or 503, { usable = usable, total = #peers.all() })
end

function M.upstreams()
  answer(200, peers.report())
end

local function gauges()
  local up, drained, inflight, generations = {}, {}, {}, {}
  for i, peer in ipairs(peers.report()) do
    local labels = metrics.labelled({ "host", "instance" }, { peer.host, peer.instance })
    up[i] = { labels, peer.state == "down" and 0 or 1 }
    drained[i] = { labels, peer.state == "drained" and 1 or 0 }
    inflight[i] = { labels, peer.inflight }
  end
  for _, client in ipairs(clients) do
    if client.concurrency > 0 then
      generations[#generations + 1] = { metrics.labelled({ "client" }, { client.name }), slots.count(client.slot) }
    end
  end
  local var = ngx.var
  local status = ngx.location.capture("/stub_status").body or ""
  local accepted, handled = match(status, "(%d+) (%d+) %d+")
  local shared = {}
  for i, name in ipairs({ "gpufleet_gateway", "gpufleet_gateway_metrics", "gpufleet_gateway_users" }) do
    shared[i] = { metrics.labelled({ "dict" }, { name }), ngx.shared[name]:free_space() }
  end
  return {
    { "ollama_gateway_upstream_up", "Whether an instance answers; a drained one may.", up },
    { "ollama_gateway_upstream_drained", "Whether an instance is taken out.", drained },
    { "ollama_gateway_upstream_inflight", "Requests under way at an instance.", inflight },
    { "ollama_gateway_client_generations", "Generations under way of a client with a limit.", generations },
    { "ollama_gateway_config_info", "The configuration that nginx runs.", { { metrics.labelled({ "id" }, { config_id }), 1 } } },
    { "ollama_gateway_certificate_expiry_timestamp_seconds", "When the certificate that nginx loaded ends.", expiry and { { "", expiry } } or {} },
    { "ollama_gateway_shared_memory_free_bytes", "Room for more series and counts.", shared },
    { "nginx_connections_active", "Connections of clients, idle ones too.", { { "", tonumber(var.connections_active) } } },
    { "nginx_connections_reading", "Connections whose request is read.", { { "", tonumber(var.connections_reading) } } },
    { "nginx_connections_writing", "Connections whose answer is written.", { { "", tonumber(var.connections_writing) } } },
    { "nginx_connections_waiting", "Idle connections.", { { "", tonumber(var.connections_waiting) } } },
    { "nginx_connections_accepted", "Connections since nginx started.", { { "", tonumber(accepted) or 0 } }, "counter" },
    { "nginx_connections_handled", "Connections that nginx had room for.", { { "", tonumber(handled) or 0 } }, "counter" },
  }
end

function M.metrics()
  ngx.header["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
  ngx.print(metrics.text(gauges()))
end

return M
