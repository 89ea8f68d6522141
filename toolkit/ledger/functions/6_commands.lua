-- steer cancel | pause | resume reason grace_ms -> state
--   grace_ms, of a cancel: what still runs then is killed; empty for never
local function steer(K, A)
  local k = open_keys(K)
  local state = redis.call('HGET', k.h, 'state')
  if not state then return 'norun' end
  local from = { cancel = { running = 'cancelling', paused = 'cancelling', cancelling = 'cancelling' }, pause = { running = 'paused' },
                 resume = { paused = 'running' } }
  local target = from[A[1]] and from[A[1]][state]
  if target then
    redis.call('HSET', k.h, 'state', target)
    if A[1] == 'resume' then forget_errors(k) else redis.call('HSET', k.h, 'reason', A[2]) end
    if A[1] == 'cancel' and A[3] ~= '' then
      -- from a clock that was set back the next sweep takes off by how much, see set_back
      local from_ms = math.max(now_ms(k), tonumber(redis.call('HGET', k.h, 'swept_at') or 0) or 0)
      redis.call('HSET', k.h, 'terminate_at', from_ms + tonumber(A[3]))
    end
    if target ~= state then event(k, A[1], A[2]) end
  end
  return settle(k)
end

-- update batch_size auto max_workers detail steered ('' leaves a value alone) -> state; an event only where one changed
--   batch_size: in weight where items have one
--   steered: '1' changes nothing where a user has fixed the size meanwhile
local function update(K, A)
  local k = open_keys(K)
  local v = redis.call('HMGET', k.h, 'state', 'weight_size', 'auto')
  local state = v[1]
  if not state then return 'norun' end
  if A[5] == '1' and v[3] ~= '1' then return state end
  local changed = false
  for j, field in ipairs({ v[2] and 'weight_size' or 'batch_size', 'auto', 'max_workers' }) do
    if A[j] ~= '' and redis.call('HGET', k.h, field) ~= A[j] then
      redis.call('HSET', k.h, field, A[j])
      changed = true
    end
  end
  if changed then event(k, 'updated', A[4]) end
  return state
end

-- retry_dead call first index... -> {state, number sent back}; drop_dead call first index... -> {state, number dropped}
--   call: random id of the call; a repeated one gets its answer again, though the items may be dead once more
--   first: 0 when an earlier call did a part of the same wish; what the user asked for at once is one generation,
--     unless the run ended in between
local function revive(K, A, back)
  local k = open_keys(K)
  local state = redis.call('HGET', k.h, 'state')
  if not state then return { 'norun', 0 } end
  if back and (state == 'cancelling' or state == 'cancelled') then return { state, 0 } end
  local call, done = string.match(redis.call('HGET', k.h, 'revived') or '', '^(%x+):(%d+)$')
  if call == A[1] then return { state, tonumber(done) } end
  local n, release = 0, redis.call('HGET', k.h, 'release') == '1'
  for j = 3, #A do
    local index = A[j]
    if redis.call('HDEL', k.x, index) == 1 then
      n = n + 1
      add(k, 'dead', -1)
      if back then give_back(k, { a = tonumber(index), b = tonumber(index) + 1, att = 0, sus = 0, solo = 0 }, 0, false)
      else
        add(k, 'skipped', 1)
        if release then ended(k, tonumber(index), tonumber(index) + 1, 1) end
      end
    end
  end
  if n > 0 and back then
    if A[2] ~= '0' or state == 'finished' then add(k, 'generation', 1) end
    if state == 'finished' then
      redis.call('HSET', k.h, 'state', 'running', 'finished_at', 0)
      for _, key in ipairs(keys_of(k)) do redis.call('PERSIST', key) end
    end
  end
  if n > 0 then
    redis.call('HSET', k.h, 'revived', string.format('%s:%d', A[1], n))
    event(k, back and 'retry_dead' or 'drop_dead', string.format('%d', n))
    if not back and (state == 'finished' or state == 'cancelled') then expire(k) end
  end
  return { redis.call('HGET', k.h, 'state'), n }
end

local function retry_dead(K, A) return revive(K, A, true) end
local function drop_dead(K, A) return revive(K, A, false) end

-- status -> {server milliseconds, active, [field value]...} | {}
local function status(K)
  local k = open_keys(K)
  local fields = { 'state', 'closed', 'submitted', 'cursor', 'ready', 'delayed', 'claimed', 'ok', 'dead', 'skipped',
    'retried', 'rows', 'lost', 'batch_size', 'auto', 'max_workers', 'known_workers', 'last_batch', 'item_s',
    'generation', 'created_at', 'started_at', 'finished_at', 'finals', 'reason', __ERROR_FIELDS__ }
  local v = redis.call('HMGET', k.h, unpack(fields))
  if not v[1] then return {} end
  return { now_ms(k), redis.call('HLEN', k.c), v }
end

local TYPES = { 'hash', 'hash', 'zset', 'list', 'zset', 'hash', 'hash', 'list', 'string', 'hash', 'stream', 'zset', 'zset' }
local WHOLE = { 'lease_ms', 'retention_ms', 'batch_size', 'auto', 'max_workers', 'max_suspect', 'known_workers',
  'release', 'breaker_items', 'terminate_at', 'closed', 'submitted', 'cursor', 'ready', 'delayed', 'claimed',
  'ok', 'dead', 'skipped', 'retried', 'rows', 'lost', 'generation', 'finals', 'last_batch', 'created_at',
  'started_at', 'finished_at', 'swept_at', 'workers_n', 'page_items' }
local DECIMAL = { 'breaker', 'item_s' }
local WEIGHTS = { 'weight_size', 'weight_left', 'weight_last', 'weight_s' }  -- there only where items have weights
local COUNTED = { 'recent', __ERROR_FIELDS__, __RECENT_FIELDS__ }  -- there only once something was counted

-- A call failed halfway: names the key or field that made it fail, where one does not hold what it should.
local function diagnose(K)
  local k = open_keys(K)
  for j, wanted in ipairs(TYPES) do
    local key = j == 9 and k.m .. ':0' or K[j]
    if key == k.q and weighted(k) then wanted = 'zset' end
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' and found ~= wanted then corrupt(key, 'a ' .. found .. ', expected: ' .. wanted) end
  end
  if redis.call('EXISTS', k.h) == 0 then return end
  local function check(key, field, v, whole)
    if not tonumber(v) or (whole and not string.match(v, '^-?%d+$')) then corrupt(key .. ', field ' .. field, v or 'missing') end
  end
  for _, field in ipairs(WHOLE) do check(k.h, field, redis.call('HGET', k.h, field), true) end
  for _, field in ipairs(DECIMAL) do check(k.h, field, redis.call('HGET', k.h, field)) end
  for _, field in ipairs(COUNTED) do
    local v = redis.call('HGET', k.h, field)
    if v then check(k.h, field, v, true) end
  end
  for _, field in ipairs(weighted(k) and WEIGHTS or {}) do check(k.h, field, redis.call('HGET', k.h, field)) end
  for _, start in ipairs(redis.call('ZRANGE', k.pi, 0, -1)) do
    local v = redis.call('HGET', k.p, 'n' .. start)
    if v then check(k.p, 'n' .. start, v, true) end
  end
end

local function register(name, fn, flags)
  local function guarded(K, A)
    local fine, answer = pcall(fn, K, A)
    if fine then return answer end
    local text = type(answer) == 'table' and answer.err or tostring(answer)
    if not string.find(text, 'CORRUPT <', 1, true) then diagnose(K) end
    error(answer, 0)
  end
  offer(name, guarded, flags)
end

register('create', create)
register('append', append)
register('claim', claim)
register('commit', commit)
register('commit_only', commit, { 'allow-oom' })  -- without a claim: what was executed is accounted on a full server too
register('renew', renew, { 'allow-oom' })
register('lost', lost, { 'allow-oom' })
register('sweep', sweep, { 'allow-oom' })
register('tickets', tickets, { 'allow-oom' })
register('steer', steer, { 'allow-oom' })
register('update', update, { 'allow-oom' })
register('retry_dead', retry_dead)
register('drop_dead', drop_dead, { 'allow-oom' })
register('status', status, { 'no-writes' })
