-- create spec function kwargs lease_ms retention_ms batch_size auto max_workers max_suspect known_workers release
--   breaker breaker_items weight_size -> 'ok' | 'conflict'
--   release: 1 deletes a page once all its items ended; breaker: share of failed items that pauses the run, 0 for none
--   weight_size: of a run whose items have weights, the weight of a batch, 0 for one that adapts; else empty
local function create(K, A)
  local k = open_keys(K)
  local old = redis.call('HGET', k.h, 'spec')
  if old then return old == A[1] and 'ok' or 'conflict' end
  redis.call('HSET', k.h, 'spec', A[1], 'function', A[2], 'kwargs', A[3], 'lease_ms', A[4], 'retention_ms', A[5],
    'batch_size', A[6], 'auto', A[7], 'max_workers', A[8], 'max_suspect', A[9], 'known_workers', A[10],
    'release', A[11], 'breaker', A[12], 'breaker_items', A[13], 'terminate_at', 0, 'reason', '',
    'state', 'running', 'closed', 0, 'submitted', 0, 'cursor', 0, 'ready', 0, 'delayed', 0, 'claimed', 0,
    'ok', 0, 'dead', 0, 'skipped', 0, 'retried', 0, 'rows', 0, 'lost', 0, 'generation', 0,
    'finals', 0, 'last_batch', 0, 'item_s', '0', 'created_at', now_ms(k), 'started_at', 0, 'finished_at', 0,
    'swept_at', now_ms(k), 'workers_n', 0, 'page_items', 0)
  if A[14] ~= '' then redis.call('HSET', k.h, 'weight_size', A[14], 'weight_left', 0, 'weight_last', 0, 'weight_s', 0) end
  event(k, 'created', '')
  return 'ok'
end

-- Whether the run holds what a call of append gives once more: another submission under the same id may have as many
-- items. A page whose items ended may be gone; then the digest of all input tells.
local function holds(k, A, n, release, digest)
  if n > 0 then
    local page = redis.call('HMGET', k.p, A[1], 'k' .. A[1])
    if page[1] and (page[1] ~= A[3] or (page[2] or '') ~= A[4]) or not page[1] and release ~= 1 then return false end
  end
  return A[6] == '' or (digest or A[6]) == A[6]
end

-- Keeps in mind how many items a page has, as long as all but the last have as many: then nobody need look up which page
-- holds an item.
local function note_page(k, expected, n)
  local size = num(k, 'page_items')
  if expected == 0 then redis.call('HSET', k.h, 'page_items', n)
  elseif size > 0 and (expected % size ~= 0 or n > size) then redis.call('HSET', k.h, 'page_items', 0) end
end

-- append expected n page keys close digest before [sums alone]
-- -> {'ok' | 'conflict' | 'differs' | 'closed' | state, submitted, taken}
--   digest, before: of all items with this page and without it; empty when they are not known
--   sums: running sums of the weights of the items; alone: offsets of those that are ranges of their own
local function append(K, A)
  local k = open_keys(K)
  local expected, n, close = tonumber(A[1]), tonumber(A[2]), A[5]
  local v = redis.call('HMGET', k.h, 'state', 'weight_size', 'digest')
  local state, weights, digest = v[1], v[2] ~= false, v[3]
  if not state then return { 'norun', 0, 0 } end
  local submitted, cursor, closed, release, ready = nums(k, 'submitted', 'cursor', 'closed', 'release', 'ready')
  local taken = weights and cursor - ready or cursor
  if submitted == expected + n and (n > 0 or closed == 1) and (close ~= '1' or closed == 1) then
    return { holds(k, A, n, release, digest) and 'ok' or 'conflict', submitted, taken }
  end
  if state ~= 'running' and state ~= 'paused' then return { check_state(k, state), submitted, taken } end
  if closed == 1 then return { 'closed', submitted, taken } end
  if submitted ~= expected then return { 'conflict', submitted, taken } end
  if A[7] ~= '' and digest and digest ~= A[7] then return { 'differs', submitted, taken } end
  local ranges = n > 0 and weights and cut_page(expected, n, A[8] or '', A[9] or '')
  if n > 0 and (weights and not ranges or not weights and A[8]) then return redis.error_reply('ERR append: bad weights') end
  if n > 0 then
    redis.call('HSET', k.p, A[1], A[3])
    if A[4] ~= '' then redis.call('HSET', k.p, 'k' .. A[1], A[4]) end
    if release == 1 then redis.call('HSET', k.p, 'n' .. A[1], n) end
    redis.call('ZADD', k.pi, expected, A[1])
    note_page(k, expected, n)
    add(k, 'submitted', n)
    if ranges then
      k.weighted = true
      redis.call('HSET', k.p, 'w' .. A[1], A[8])
      redis.call('HSET', k.h, 'cursor', string.format('%d', expected + n))
      for _, r in ipairs(ranges) do push_ready(k, r) end
      add(k, 'ready', n)
      add_weight(k, sum_to(A[8], n))
    end
  end
  if A[6] ~= '' then redis.call('HSET', k.h, 'digest', A[6])
  elseif n > 0 then redis.call('HDEL', k.h, 'digest') end
  if close == '1' then
    redis.call('HSET', k.h, 'closed', 1)
    settle(k)
  end
  return { 'ok', expected + n, taken }
end
