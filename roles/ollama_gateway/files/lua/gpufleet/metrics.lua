-- Counters and histograms in shared memory, and their text for Prometheus.
--
-- A series is a key `family \t label values …` of the dictionary. Each new key is numbered, so that a scrape reads the series one by one and
-- never holds the dictionary's lock for long, as a list of all keys would. Values of labels come from the configuration only: a stranger
-- cannot make series. Of a histogram each request adds to one bucket and to the sum; buckets are added up at the scrape, so they always fit.
local ngx, concat = ngx, table.concat

local M = {}

-- seconds, and tokens a second too
local BUCKETS = { 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600 }
local BUCKET_COUNT = #BUCKETS

-- family -> name, type, help, labels
local COUNTERS = {
  r = { "nginx_http_requests_total", "Requests, by the gateway's own answers too.", { "route", "status", "client" } },
  t = { "ollama_gateway_tokens_total", "Tokens, as Ollama counts them.", { "kind", "client", "model" } },
  e = { "ollama_gateway_eval_seconds_total", "Time that Ollama spent generating.", { "model" } },
  o = { "ollama_gateway_stream_outcomes_total", "How answers of the classes chat and embed ended.", { "route", "outcome" } },
  j = { "ollama_gateway_rejected_total", "Requests that the gateway refused.", { "reason" } },
  f = { "ollama_gateway_upstream_failures_total", "Failed connections to an instance.", { "host", "instance" } },
}
local HISTOGRAMS = {
  h = { "nginx_http_request_duration_seconds", "Time of requests that Ollama answered.", { "route", "model" } },
  k = { "ollama_gateway_output_tokens_per_second", "Tokens a second of an answer, while it was generated.", { "model" } },
  g = { "ollama_gateway_time_to_first_token_seconds", "Time to the first piece of a streamed answer.", { "model" } },
}

local dict

function M.init_worker(shared)
  dict = shared
end

local function add(key, value)
  if value > 0 and dict:incr(key, value, 0) == value then
    -- it was not there before
    dict:set("#" .. dict:incr("#", 1, 0), key)
  end
end

function M.count(family, value, ...)
  add(concat({ family, ... }, "\t"), value)
end

function M.observe(family, value, ...)
  local labels = concat({ family, ... }, "\t")
  local bucket = BUCKET_COUNT + 1
  for i = 1, BUCKET_COUNT do
    if value <= BUCKETS[i] then
      bucket = i
      break
    end
  end
  add(labels .. "\t" .. bucket, 1)
  add(labels .. "\tsum", value)
end

local ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

local function labelled(names, values)
  local parts = {}
  for i, name in ipairs(names) do parts[i] = name .. '="' .. values[i]:gsub('[\\"\n]', ESCAPES) .. '"' end
  return concat(parts, ",")
end

local function split(key)
  local parts = {}
  for part in (key .. "\t"):gmatch("([^\t]*)\t") do parts[#parts + 1] = part end
  return parts
end

-- family -> list of { labels, value } or, of a histogram, labels -> its parts
local function read()
  -- a full dictionary drops keys, which may then be numbered twice
  local series, seen = {}, {}
  for number = 1, dict:get("#") or 0 do
    local key = dict:get("#" .. number)
    local value = key and not seen[key] and dict:get(key)
    if value then
      seen[key] = true
      local parts = split(key)
      local family = table.remove(parts, 1)
      local list = series[family]
      if not list then
        list = {}
        series[family] = list
      end
      if COUNTERS[family] then
        list[#list + 1] = { labelled(COUNTERS[family][3], parts), value }
      else
        local bucket = table.remove(parts)
        local labels = labelled(HISTOGRAMS[family][3], parts)
        list[labels] = list[labels] or {}
        list[labels][bucket == "sum" and "sum" or tonumber(bucket)] = value
      end
    end
    -- others get their turn
    if number % 1000 == 0 then ngx.sleep(0) end
  end
  return series
end

local function head(out, name, kind, help)
  out[#out + 1] = ("# HELP %s %s\n# TYPE %s %s\n"):format(name, help, name, kind)
end

local function number(value) return value % 1 == 0 and ("%d"):format(value) or ("%.6f"):format(value) end

local function histogram(out, name, labels, parts)
  local sum = 0
  for i = 1, BUCKET_COUNT do
    sum = sum + (parts[i] or 0)
    out[#out + 1] = ('%s_bucket{%s,le="%s"} %d\n'):format(name, labels, BUCKETS[i], sum)
  end
  sum = sum + (parts[BUCKET_COUNT + 1] or 0)
  out[#out + 1] = ('%s_bucket{%s,le="+Inf"} %d\n%s_sum{%s} %s\n%s_count{%s} %d\n'):format(
    name, labels, sum, name, labels, number(parts.sum or 0), name, labels, sum)
end

-- The text of all series, and of gauges: a list of { name, help, { { labels, value }, … } }, with a fourth field the type when it is none
function M.text(gauges)
  local out, series = {}, read()
  for family, about in pairs(COUNTERS) do
    head(out, about[1], "counter", about[2])
    for _, item in ipairs(series[family] or {}) do out[#out + 1] = ("%s{%s} %s\n"):format(about[1], item[1], number(item[2])) end
  end
  for family, about in pairs(HISTOGRAMS) do
    head(out, about[1], "histogram", about[2])
    for labels, parts in pairs(series[family] or {}) do histogram(out, about[1], labels, parts) end
  end
  for _, gauge in ipairs(gauges) do
    head(out, gauge[1], gauge[4] or "gauge", gauge[2])
    for _, item in ipairs(gauge[3]) do
      out[#out + 1] = ("%s%s %s\n"):format(gauge[1], item[1] ~= "" and "{" .. item[1] .. "}" or "", number(item[2]))
    end
  end
  return concat(out)
end

M.labelled = labelled

return M
