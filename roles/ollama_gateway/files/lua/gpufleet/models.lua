-- Names of models: the same model has several, and an allow list has patterns.
local find, gsub, lower, match, sub = string.find, string.gsub, string.lower, string.match, string.sub

local M = {}

-- One name for a model: Ollama adds the registry, the namespace and the tag when they are missing, and takes any case.
function M.normalise(name)
  name = lower(name)
  if sub(name, 1, 19) == "registry.ollama.ai/" then name = sub(name, 20) end
  if sub(name, 1, 8) == "library/" then name = sub(name, 9) end
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

-- A function that says whether a normalised name is in the list of patterns, in which * stands for any text.
-- Patterns that begin with the registry or its namespace, or have neither tag nor *, are normalised as names are.
function M.matcher(patterns)
  local exact, globs = {}, {}
  for _, pattern in ipairs(patterns) do
    if find(pattern, "*", 1, true) then
      pattern = gsub(gsub(lower(pattern), "^registry%.ollama%.ai/", ""), "^library/", "")
      globs[#globs + 1] = "^" .. gsub(gsub(pattern, "[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"), "%*", ".*") .. "$"
    else
      exact[M.normalise(pattern)] = true
    end
  end
  return function(name)
    if exact[name] then return true end
    for i = 1, #globs do
      if find(name, globs[i]) then return true end
    end
    return false
  end
end

return M
