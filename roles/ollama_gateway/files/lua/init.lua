-- Run by nginx's master process, as root, at each start and reload: the only moment that the clients' file is readable.
-- An error here stops a start, and makes a reload keep the configuration that runs.
package.path = "/etc/gpufleet/gateway/lua/?.lua;" .. package.path
require("gateway").init("/etc/gpufleet/gateway/clients.json")
