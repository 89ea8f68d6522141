-- retire batches dead -> 1 | 0
--   Deletes a run that has ended, provided that it stands as its archived copy says: since then no batch was recorded,
--   and no dead letter was dropped or sent back to work. A run that is gone counts as deleted.
local function retire(K, A)
  local k = open_keys(K)
  local state = redis.call('HGET', k.h, 'state')
  if not state then return 1 end
  if state ~= 'finished' and state ~= 'cancelled' then return 0 end
  local batches, dead = nums(k, 'rows', 'dead')
  if batches ~= tonumber(A[1]) or dead ~= tonumber(A[2]) then return 0 end
  redis.call('UNLINK', unpack(keys_of(k)))
  return 1
end

register('retire', retire, { 'allow-oom' })
