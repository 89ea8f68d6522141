-- retire batches dead created_at -> 1 | 0
--   Deletes the run created at that moment once it has ended, provided that it stands as its archived copy says: since
--   then no batch was recorded, and no dead letter was dropped or sent back to work. A run that is gone counts as deleted.
local function retire(K, A)
  local k = open_keys(K)
  local state = redis.call('HGET', k.h, 'state')
  if not state then return 1 end
  if state ~= 'finished' and state ~= 'cancelled' then return 0 end
  local batches, dead, created_at = nums(k, 'rows', 'dead', 'created_at')
  if batches ~= tonumber(A[1]) or dead ~= tonumber(A[2]) or created_at ~= tonumber(A[3]) then return 0 end
  redis.call('UNLINK', unpack(keys_of(k)))
  return 1
end

register('retire', retire, { 'allow-oom' })
