-- What a request's JSON body asks for, read as Ollama will read it, without decoding what is of no interest here (prompts, images).
--
-- Ollama decodes with Go's encoding/json: the names of a request's fields match in any case, Unicode folding included; of two equal ones
-- the last wins; escapes in names are decoded; what follows the object is ignored. So a check that reads only the field `model` is passed
-- by `{"model":"allowed","MODEL":"forbidden"}`. Here every name of the outer object is looked at, and what could be read in two ways is
-- refused. Text that is no valid JSON may get through: Ollama refuses it.
local cjson = require "cjson.safe"
local ffi = require "ffi"

local byte, find, lower, sub = string.byte, string.find, string.lower, string.sub

local M = {}

-- of one object; a request has some ten
local NAMES_MAX = 1000

-- the fields of a request that a policy speaks of; fields of other requests may stand here, which Ollama ignores
local FIELDS = {
  model = true, name = true, stream = true, keep_alive = true, options = true, stream_options = true,
  max_tokens = true, max_completion_tokens = true, max_output_tokens = true,
}
-- of the object `options`, which is a map in Go: names match exactly
local OPTIONS = {
  num_predict = true, num_ctx = true, num_gpu = true, main_gpu = true, num_thread = true, num_batch = true, use_mmap = true,
  draft_num_predict = true,
}

-- a JSON null that was given, unlike a field that is missing
M.NULL = setmetatable({}, { __tostring = function() return "null" end })
local NULL = M.NULL

-- index of the quote that ends the string which begins at the quote i
local function string_end(text, i)
  local from = i + 1
  while true do
    local quote = find(text, '"', from, true)
    if not quote then return nil end
    local slash = quote - 1
    while byte(text, slash) == 92 do slash = slash - 1 end
    if (quote - slash) % 2 == 1 then return quote end
    from = quote + 1
  end
end

-- Many brackets are counted byte by byte, with tables in place of branches, which LuaJIT compiles to one short loop: a call of find for each
-- of 32 million would keep the worker from everything else for seconds. States: 0 outside of strings, 256 in one, 512 behind a backslash.
local NEXT, STEP = ffi.new("uint16_t[768]"), ffi.new("int8_t[768]")
for char = 0, 255 do
  NEXT[char], NEXT[256 + char], NEXT[512 + char] = 0, 256, 256
end
NEXT[34], NEXT[256 + 34], NEXT[256 + 92] = 256, 0, 512
STEP[91], STEP[123], STEP[93], STEP[125] = 1, 1, -1, -1

local function count_on(text, i, depth)
  local bytes = ffi.cast("const unsigned char *", text)
  local state = 0
  for at = i - 1, #text - 1 do
    local char = state + bytes[at]
    depth = depth + STEP[char]
    if depth == 0 then return at + 1 end
    state = NEXT[char]
  end
end

-- index of the bracket that closes the one at i. A usual body has few brackets and long strings, over which find leaps.
local FEW = 200
local function nested_end(text, i)
  local depth, from = 0, i
  for _ = 1, FEW do
    local at = find(text, '["%[%]{}]', from)
    if not at then return nil end
    local char = byte(text, at)
    if char == 34 then
      at = string_end(text, at)
      if not at then return nil end
    elseif char == 91 or char == 123 then
      depth = depth + 1
    else
      depth = depth - 1
      if depth == 0 then return at end
    end
    from = at + 1
  end
  return count_on(text, from, depth)
end

-- the text of a string, from its first quote to its last
local function decoded(text, from, to)
  local raw = sub(text, from + 1, to - 1)
  if not find(raw, "\\", 1, true) then return raw end
  local list = cjson.decode("[" .. sub(text, from, to) .. "]")
  return list and list[1]
end

local WORDS = { ["true"] = true, ["false"] = false, ["null"] = NULL }

-- a value of interest: text, number, boolean, NULL, or for an object or a list nil
local function value_of(text, from, to, char)
  if char == 34 then return decoded(text, from, to) end
  if char == 91 or char == 123 then return nil end
  local word = sub(text, from, to)
  if WORDS[word] ~= nil then return WORDS[word] end
  return tonumber(word)
end

-- Read the object that begins at i. `found` gets the values of the `wanted` names, and in from[name], to[name] where they stand.
-- Returns the index of its last bracket, or nil and what is wrong.
local function read_object(text, i, wanted, any_case, found, from, to)
  i = i + 1
  local first, count = true, 0
  while true do
    count = count + 1
    if count > NAMES_MAX then return nil, "the object has too many fields" end
    i = find(text, "%S", i)
    if not i then return nil, "the JSON object has no end" end
    local char = byte(text, i)
    if char == 125 then return i end
    if char == 44 and not first then
      i = find(text, "%S", i + 1)
      char = i and byte(text, i)
    end
    if char ~= 34 then return nil, "the body is no valid JSON" end
    first = false
    local name_end = string_end(text, i)
    local name = name_end and decoded(text, i, name_end)
    if not name then return nil, "the body is no valid JSON" end
    if any_case and find(name, "[\128-\255]") then return nil, "a field has a name with letters that are not ASCII" end
    local folded = any_case and lower(name) or name
    if wanted[folded] and folded ~= name then return nil, "write the field " .. folded .. " in lower case" end
    i = find(text, "%S", name_end + 1)
    if not i or byte(text, i) ~= 58 then return nil, "the body is no valid JSON" end
    i = find(text, "%S", i + 1)
    if not i then return nil, "the JSON object has no end" end
    char = byte(text, i)
    local last
    if char == 34 then
      last = string_end(text, i)
    elseif char == 91 or char == 123 then
      last = nested_end(text, i)
    else
      last = find(text, "[,}%]%s]", i)
      last = last and last - 1
    end
    if not last then return nil, "the JSON object has no end" end
    if wanted[name] then
      if from[name] then return nil, "the field " .. name .. " is there twice" end
      from[name], to[name] = i, last
      found[name] = value_of(text, i, last, char)
    end
    i = last + 1
  end
end

-- Read a body. Returns a table of the fields of interest (absent ones are nil) with the tables `from` and `to` of their places; `start`,
-- where the outer object begins; `options`, a table of the same form when there is such an object. Or nil and a sentence.
function M.read(text)
  local start = find(text, "%S")
  if not start or byte(text, start) ~= 123 then return nil, "the body must be a JSON object" end
  local fields = { start = start, from = {}, to = {} }
  local from, to = fields.from, fields.to
  local last, problem = read_object(text, start, FIELDS, true, fields, from, to)
  if not last then return nil, problem end
  if from.options and byte(text, from.options) == 123 then
    local options = { start = from.options, from = {}, to = {} }
    last, problem = read_object(text, from.options, OPTIONS, false, options, options.from, options.to)
    if not last then return nil, problem end
    fields.options = options
  elseif from.options and fields.options ~= NULL then
    return nil, "options must be an object"
  end
  return fields
end

-- Write a number into the body: in the place of the value that `name` has in the object `fields`, or as its first field.
function M.write_number(text, fields, name, number)
  number = ("%d"):format(number)
  if fields.from[name] then
    return sub(text, 1, fields.from[name] - 1) .. number .. sub(text, fields.to[name] + 1)
  end
  local comma = byte(text, find(text, "%S", fields.start + 1)) == 125 and "" or ","
  return sub(text, 1, fields.start) .. '"' .. name .. '":' .. number .. comma .. sub(text, fields.start + 1)
end

-- The same for a number in `options`, which may be missing or null.
function M.write_option(text, fields, name, number)
  if type(fields.options) == "table" and fields.options ~= NULL then
    return M.write_number(text, fields.options, name, number)
  end
  local object = ('{"%s":%d}'):format(name, number)
  if fields.from.options then
    return sub(text, 1, fields.from.options - 1) .. object .. sub(text, fields.to.options + 1)
  end
  local comma = byte(text, find(text, "%S", fields.start + 1)) == 125 and "" or ","
  return sub(text, 1, fields.start) .. '"options":' .. object .. comma .. sub(text, fields.start + 1)
end

-- The objects of a list in the outer object, as they stand in the text: a list of { text, name }, where `key` is the field of the name.
function M.items(text, list, key)
  local found, from, items = {}, {}, {}
  local start = find(text, "%S")
  if not start or byte(text, start) ~= 123 or not read_object(text, start, { [list] = true }, false, found, from, {}) then return items end
  local i = from[list] and byte(text, from[list]) == 91 and from[list]
  while i do
    i = find(text, "[%]{]", i + 1)
    if not i or byte(text, i) == 93 then break end
    local last = nested_end(text, i)
    if not last then break end
    local fields = {}
    read_object(text, i, { [key] = true }, false, fields, {}, {})
    items[#items + 1] = { sub(text, i, last), fields[key] }
    i = last
  end
  return items
end

return M
