-- Names of models: the same model has several, and an allow list has patterns.
local find, gsub, lower, match, sub = string.find, string.gsub, string.lower, string.match, string.sub

local REGISTRY, LIBRARY = "registry.ollama.ai/", "registry.ollama.ai/library/"

local M = {}

-- One name for a model: Ollama adds the registry, the namespace and the tag when they are missing, and takes any case.
function M.normalise(name)
  name = lower(name)
  -- with fewer slashes it would be a namespace, with more another host's model
  if match(name, "^registry%.ollama%.ai/[^/]+/[^/]+$") then name = sub(name, #REGISTRY + 1) end
  if match(name, "^library/[^/]+$") then name = sub(name, 9) end
  if not find(name, ":[^/]*$") then name = name .. ":latest" end
  return name
end

local labels = {}

-- master: the names of the manifests
function M.init(names)
  labels = {}
  for _, name in ipairs(names) do labels[M.normalise(name)] = name end
end

-- The value of a metric's label for a normalised name: clients must not be able to make series.
function M.label(name)
  return labels[name] or "other"
end

-- What a name is in a log: what could not be the name of a model is not repeated there.
function M.loggable(name)
  return #name <= 200 and match(name, "^[%w_.:/-]+$") and name or "invalid"
end

-- A normalised name with its registry
local function full(name)
  local _, slashes = gsub(name, "/", "")
  return slashes == 0 and LIBRARY .. name or slashes == 1 and REGISTRY .. name or name
end

-- A pattern of Lua. What follows a piece of a name is the rest of that piece: `llama3.2:*` must not allow llama3.2:443/some/model.
local function glob(pattern)
  pattern = gsub(pattern, "[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0")
  return "^" .. gsub(gsub(pattern, "([^/*])%*+", "%1[^/]*"), "^%*+", ".*"):gsub("/%*+", "/.*") .. "$"
end

-- A function that says whether a normalised name is in the list of patterns. In them * stands for any text; where it follows another
-- character than /, for any without /. Patterns that begin with the registry or its namespace see names with both.
function M.matcher(patterns)
  local exact, globs, full_globs = {}, {}, {}
  for _, pattern in ipairs(patterns) do
    pattern = gsub(lower(pattern), "^library/", LIBRARY)
    if not find(pattern, "*", 1, true) then
      exact[M.normalise(pattern)] = true
    elseif sub(pattern, 1, #REGISTRY) == REGISTRY then
      full_globs[#full_globs + 1] = glob(pattern)
    else
      globs[#globs + 1] = glob(pattern)
    end
  end
  return function(name)
    if exact[name] then return true end
    -- Ollama takes a scheme in front of the registry: llama3.2:x://registry.ollama.ai/library/other is the model `other`
    if find(name, "//", 1, true) then return false end
    for i = 1, #globs do
      if find(name, globs[i]) then return true end
    end
    for i = 1, #full_globs do
      if find(full(name), full_globs[i]) then return true end
    end
    return false
  end
end

return M
