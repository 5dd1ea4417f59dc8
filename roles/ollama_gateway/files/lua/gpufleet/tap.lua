-- What an answer says of itself at its end: tokens and durations. Only its last bytes are kept, in a ring that is reused.
--
-- No Lua string is made of a chunk: LuaJIT interns each, and chunks that are nearly alike collide in its table (openresty/luajit2#60),
-- which costs more than everything else here together.
local base = require "resty.core.base"
local ffi = require "ffi"
require "resty.core.param"

local C, gmatch = ffi.C, string.gmatch

local M = {}

ffi.cdef [[
  void *memmove(void *to, const void *from, size_t n);
  void *memchr(const void *from, int char_, size_t n);
]]

local SIZE, KEEP = 8192, 4096
local ring_type = ffi.typeof("struct { unsigned char bytes[8192]; int length; int lines; int last; }")
local body, body_length = ffi.new("unsigned char *[1]"), ffi.new("size_t[1]")
local pool, pooled = {}, 0
local scratch, scratch_size = nil, 0

local function new_ring()
  local ring
  if pooled > 0 then
    ring, pool[pooled] = pool[pooled], nil
    pooled = pooled - 1
  else
    ring = ring_type()
  end
  ring.length, ring.lines, ring.last = 0, 0, 10
  return ring
end

function M.release(ring)
  if pooled < 256 then
    pooled = pooled + 1
    pool[pooled] = ring
  end
end

-- Lines that are not empty: an empty one ends an event of an event stream
local function count_lines(ring, from, length)
  local left = length
  while left > 0 do
    local at = C.memchr(from, 10, left)
    if at == nil then
      ring.last = from[left - 1]
      return
    end
    local past = ffi.cast("unsigned char *", at) + 1
    local before = past - from > 1 and past[-2] or ring.last
    if before ~= 10 then ring.lines = ring.lines + 1 end
    ring.last = 10
    left = left - (past - from)
    from = past
  end
end

local function append(ring, from, length)
  count_lines(ring, from, length)
  if length >= KEEP then
    ffi.copy(ring.bytes, from + (length - KEEP), KEEP)
    ring.length = KEEP
    return
  end
  if ring.length + length > SIZE then
    C.memmove(ring.bytes, ring.bytes + (ring.length - KEEP), KEEP)
    ring.length = KEEP
  end
  ffi.copy(ring.bytes + ring.length, from, length)
  ring.length = ring.length + length
end

-- field -> place in what usage() returns
local FIELDS = {
  prompt_eval_count = 1, prompt_tokens = 1, input_tokens = 1,
  eval_count = 2, completion_tokens = 2, output_tokens = 2,
  eval_duration = 3,
}

-- What the end of an answer says: Ollama's own form, OpenAI's, Anthropic's. The text of a model cannot pass for it, since quotes in it are
-- escaped. The arguments of a tool call and the tools that /v1/responses repeats can, but they come before: whatever is last counts.
-- Returns tokens in, tokens out, nanoseconds of generating.
function M.usage(text)
  local found = {}
  for name, digits in gmatch(text, '"([%l_]+)":%s*(%d+)') do
    local place = FIELDS[name]
    if place then found[place] = digits end
  end
  return tonumber(found[1]), tonumber(found[2]), tonumber(found[3])
end

-- body filter: take a chunk. Returns its length, and whether it is the last.
function M.chunk(state)
  local request = base.get_request()
  body[0] = nil
  local status = C.ngx_http_lua_ffi_get_body_filter_param_body(request, body, body_length)
  local length, from = tonumber(body_length[0]), body[0]
  if length > 0 then
    if status == base.FFI_AGAIN then -- in several pieces
      if length > scratch_size then scratch, scratch_size = ffi.new("unsigned char[?]", length), length end
      C.ngx_http_lua_ffi_copy_body_filter_param_body(request, scratch)
      from = scratch
    end
    local ring = state.ring
    if not ring then
      ring = new_ring()
      state.ring = ring
    end
    append(ring, from, length)
  end
  return length, C.ngx_http_lua_ffi_get_body_filter_param_eof(request) == 1
end

-- Read the ring and give it back. Returns tokens in, tokens out, nanoseconds of generating (each nil when the answer does not say), lines.
function M.finish(state)
  local ring = state.ring
  if not ring then return nil, nil, nil, 0 end
  state.ring = nil
  local text, lines = ffi.string(ring.bytes, ring.length), ring.lines
  M.release(ring)
  local into, out, nanoseconds = M.usage(text)
  return into, out, nanoseconds, lines
end

return M
