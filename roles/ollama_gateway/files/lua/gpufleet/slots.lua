-- Counts of what is under way, shared by all workers: requests at an instance, generations of a client.
-- A count is taken and given back once; one that a killed worker held is given back by the others (janitor).
local ffi = require "ffi"

local ngx = ngx

ffi.cdef [[ int kill(int pid, int sig); ]]

local M = {}

local ESRCH = 3
local dict, pid, own
local names = {} -- every name that can be counted, for the janitor

local function own_key(name)
  local key = own[name]
  if not key then
    key = "own:" .. pid .. ":" .. name
    own[name] = key
  end
  return key
end

-- master: which names there are, as a list
function M.init(list)
  names = list
end

-- each worker, at its start
function M.init_worker(shared)
  dict, pid, own = shared, ngx.worker.pid(), {}
  local number = dict:incr("workers", 1, 0)
  dict:set("worker:" .. number, pid)
end

-- One more; returns how many there are now.
function M.take(name)
  dict:incr(own_key(name), 1, 0)
  return dict:incr(name, 1, 0) or 1
end

function M.give_back(name)
  dict:incr(own_key(name), -1, 0)
  dict:incr(name, -1, 0)
end

function M.count(name)
  local count = dict:get(name) or 0
  return count > 0 and count or 0
end

-- Give back what dead workers held.
function M.janitor()
  local first = dict:get("worker_first") or 1
  local all_gone = true
  for number = first, dict:get("workers") or 0 do
    local worker = dict:get("worker:" .. number)
    if worker and worker ~= pid and ffi.C.kill(worker, 0) ~= 0 and ffi.errno() == ESRCH then
      for _, name in ipairs(names) do
        local key = "own:" .. worker .. ":" .. name
        local held = dict:get(key)
        if held then
          dict:delete(key)
          if held > 0 then dict:incr(name, -held, 0) end
        end
      end
      dict:delete("worker:" .. number)
      worker = nil
    end
    if worker then
      all_gone = false
    elseif all_gone then
      dict:set("worker_first", number + 1)
    end
  end
end

return M
