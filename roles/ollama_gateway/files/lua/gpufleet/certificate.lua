-- When the certificate that nginx loads ends. Read where nginx reads it too: in the master process, at each start and reload.
local ffi = require "ffi"

ffi.cdef [[
  struct gpufleet_tm { int sec, min, hour, mday, mon, year, wday, yday, isdst; long gmtoff; const char *zone; };
  void *BIO_new_file(const char *filename, const char *mode);
  int BIO_free(void *bio);
  void *PEM_read_bio_X509(void *bio, void **x, void *callback, void *u);
  const void *X509_get0_notAfter(const void *x);
  void X509_free(void *x);
  int ASN1_TIME_to_tm(const void *time, struct gpufleet_tm *tm);
  long timegm(struct gpufleet_tm *tm);
]]

local M = {}

-- Seconds since 1970, or nil when the file holds no certificate
function M.expiry(path)
  local bio = ffi.C.BIO_new_file(path, "r")
  if bio == nil then return nil end
  local certificate = ffi.C.PEM_read_bio_X509(bio, nil, nil, nil)
  ffi.C.BIO_free(bio)
  if certificate == nil then return nil end
  local tm = ffi.new("struct gpufleet_tm")
  local seconds
  if ffi.C.ASN1_TIME_to_tm(ffi.C.X509_get0_notAfter(certificate), tm) == 1 then seconds = tonumber(ffi.C.timegm(tm)) end
  ffi.C.X509_free(certificate)
  return seconds
end

return M
