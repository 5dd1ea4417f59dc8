-- What a client may ask for: the body of its request, the model, the caps.
local body = require "gpufleet.body"
local errors = require "gpufleet.errors"
local models = require "gpufleet.models"
local peers = require "gpufleet.peers"

local ngx, reject = ngx, errors.reject

local M = {}

-- options that make Ollama load a model anew, to the harm of everybody who uses it
local ADMIN_OPTIONS = { "num_gpu", "main_gpu", "num_thread", "num_batch", "use_mmap", "draft_num_predict" }
local MODEL_NAME_MAX = 512

-- The body of a request, as text
local function read_body(state)
  -- some versions of the module refuse a body without a length over HTTP/2 here
  if not pcall(ngx.req.read_body) then return reject(state, 411, "body") end
  local text = ngx.req.get_body_data()
  if text then return text end
  local path = ngx.req.get_body_file()
  if not path then return "" end
  local file = assert(io.open(path, "rb"))
  text = file:read("*a")
  file:close()
  return text
end

-- Hold a number of the request to a cap. `fields` is the object that has it. Ollama cuts fractions off, and reads a num_predict of 0 as no
-- limit at all (llm/llama_server.go leaves it out of what it asks the runner for).
local function check_number(state, fields, name, cap)
  local value = fields and fields[name]
  if fields == nil or fields.from[name] == nil or value == body.NULL then return end
  if type(value) ~= "number" or not (value >= 1 and value <= cap) then
    return reject(state, 400, "cap", ("%s must be a number from 1 to %d for this client"):format(name, cap))
  end
  return value
end

-- The caps of a client. Returns the body, with the cap written into it where the request names no limit.
local function capped(state, client, route, text, fields)
  local options = type(fields.options) == "table" and fields.options ~= body.NULL and fields.options or nil
  if client.max_context > 0 then check_number(state, options, "num_ctx", client.max_context) end
  local cap = client.max_predict
  if cap == 0 or not route.predict then return text end
  if route.predict == "num_predict" then
    if check_number(state, options, "num_predict", cap) then return text end
    return body.write_option(text, fields, "num_predict", cap)
  end
  local other = check_number(state, fields, "max_completion_tokens", cap)
  if check_number(state, fields, route.predict, cap) then return text end
  return body.write_number(text, fields, route.predict, other or cap)
end

-- Check the body. Returns the name of the model, or nil where the route has none.
function M.check_body(state, client, route, var)
  -- of two such headers, some versions of nginx show only the first
  local encoding = var.http_content_encoding and ngx.req.get_headers(0)["content-encoding"]
  if encoding and encoding ~= "" and (type(encoding) ~= "string" or encoding:lower() ~= "identity") then
    return reject(state, 415, "body")
  end
  local text = read_body(state)
  local fields, problem = body.read(text)
  if not fields then return reject(state, 400, "body", problem) end
  if route.model == false then return end
  local name = fields.model
  if route.alias and (name == nil or name == "") then name = fields.name end
  if type(name) ~= "string" or name == "" then return reject(state, 400, "body", "model is required") end
  if #name > MODEL_NAME_MAX then return reject(state, 400, "body", "the name of the model is too long") end
  if not client.admin then
    if fields.from.keep_alive then return reject(state, 403, "option", "keep_alive needs the class admin") end
    if type(fields.options) == "table" and fields.options ~= body.NULL then
      for _, option in ipairs(ADMIN_OPTIONS) do
        if fields.options.from[option] then return reject(state, 403, "option", option .. " needs the class admin") end
      end
    end
  end
  local new = capped(state, client, route, text, fields)
  if new ~= text then ngx.req.set_body_data(new) end
  return name
end

-- Check the model, and find the instances that have it.
function M.check_model(state, client, name, var)
  local normal = models.normalise(name)
  state.model = models.label(normal)
  state.pool = peers.pool_of(normal)
  var.gateway_model = models.loggable(name)
  if client.may_use and not client.may_use(normal) then
    return reject(state, 403, "model", "the model " .. var.gateway_model .. " is not allowed for this client")
  end
end

return M
