-- renew known_workers id... -> {state, batch_size, max_workers, gone id...}
local function renew(K, A)
  local k = open_keys(K)
  local v = redis.call('HMGET', k.h, 'state', 'batch_size', 'max_workers', 'lease_ms')
  if not v[1] then return { 'norun', 0, 0 } end
  local out, t = { v[1], tonumber(v[2]), tonumber(v[3]) }, now_ms()
  redis.call('HSET', k.h, 'known_workers', A[1])
  for j = 2, #A do
    if redis.call('HEXISTS', k.c, A[j]) == 1 then redis.call('ZADD', k.l, t + tonumber(v[4]), A[j])
    else out[#out + 1] = A[j] end
  end
  return out
end

-- The metric row of a batch whose process died: all its items, and how those that it had committed ended.
-- struct layout generated from records.METRIC_FIELDS
local function cut_row(c, outcome_at)
  local att = 0
  for _, r in ipairs(c.ranges) do att = math.max(att, r.att + 1) end
  return struct.pack('__ROW_FORMAT__', c.who, __FLAG_CUT_OFF__, __OUTCOME_LOST__, __CATEGORY_LOST__, att, c.active, 0,
    c.asked, c.total, c.ok, c.retried, c.dead, 0, 0, c.ranges[1].a, c.at / 1000, (outcome_at - c.at) / 1000, 0, 0, 0 / 0,
    0, 0, 0, 0, 0, 0, 0, 0)
end

local function lose(k, id, blamed, limit, blob)
  local stored = redis.call('HGET', k.c, id)
  if not stored then redis.call('ZREM', k.l, id) return 0 end
  local c = claim_parse(k, stored)
  local left = c.total - c.off
  close_claim(k, id, c, 0)
  add(k, 'lost', 1)
  if blamed < c.off or blamed >= c.total then blamed = nil end
  if left == 1 then blamed = c.off end
  if blamed then
    local pos, parts = 0, {}
    for _, r in ipairs(c.ranges) do
      local n = r.b - r.a
      if pos + n > c.off then
        local a = r.a + math.max(0, c.off - pos)
        local bad = r.a + blamed - pos
        if bad >= a and bad < r.b then
          parts[#parts + 1] = { a = a, b = bad, att = r.att, sus = 0, solo = 0 }
          if r.sus + 1 >= limit then
            bury(k, bad, blob)
            c.dead = c.dead + 1
            event(k, 'item_dead', string.format('%d worker_lost', bad))
          else
            parts[#parts + 1] = { a = bad, b = bad + 1, att = r.att + 1, sus = r.sus + 1, solo = 1 }
          end
          parts[#parts + 1] = { a = bad + 1, b = r.b, att = r.att, sus = 0, solo = 0 }
        else
          parts[#parts + 1] = { a = a, b = r.b, att = r.att, sus = r.sus, solo = r.solo }
        end
      end
      pos = pos + n
    end
    for j = #parts, 1, -1 do give_back(k, parts[j], 0, true) end
  elseif left > 1 then
    give_back_halves(k, ranges_from(c, c.off), left, 0)
  end
  row_append(k, cut_row(c, now_ms()))
  event(k, 'worker_lost', string.format('%d items', left))
  return 1
end

-- lost id blamed blob -> {number of claims closed, state}
--   blamed: absolute offset in the claim of the item that was being executed, -1 when unknown
local function lost(K, A)
  local k = open_keys(K)
  if redis.call('EXISTS', k.h) == 0 then return { 0, 'norun' } end
  local n = lose(k, A[1], tonumber(A[2]), num(k, 'max_suspect'), A[3])
  return { n, settle(k) }
end

-- sweep grace_ms known_workers idle_workers ticket_expiry_ms
-- -> {state, left, active, expired, delayed, tickets wanted}
local function sweep(K, A)
  local k = open_keys(K)
  if redis.call('EXISTS', k.h) == 0 then return { 'norun', 0, 0, 0, 0, 0 } end
  local t, last, gap, known, idle = now_ms(), num(k, 'swept_at'), tonumber(A[1]), tonumber(A[2]), tonumber(A[3])
  redis.call('HSET', k.h, 'swept_at', t, 'known_workers', known)
  if last > 0 and (t - last > gap or t < last) then
    -- nobody swept for so long that the server or every node was away: the leases say nothing, grant one more
    local lease = num(k, 'lease_ms')
    for _, id in ipairs(redis.call('ZRANGE', k.l, 0, -1)) do redis.call('ZADD', k.l, t + lease, id) end
  end
  local expired = 0
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', k.l, 0, t, 'LIMIT', 0, 100)) do
    expired = expired + lose(k, id, -1, num(k, 'max_suspect') + 2, '')
  end
  for _, s in ipairs(redis.call('ZRANGEBYSCORE', k.d, 0, t, 'LIMIT', 0, 1000)) do
    local r = range_parse(s, k.d)
    redis.call('ZREM', k.d, s)
    add(k, 'delayed', -(r.b - r.a))
    give_back(k, r, 0, false)
  end
  local state = settle(k)
  local active, left, wanted = redis.call('HLEN', k.c), available(k), 0
  if state == 'running' and left > 0 then
    redis.call('ZREMRANGEBYSCORE', k.t, '-inf', idle > 0 and t + tonumber(A[4]) - LATE_TICKET_MS or t)
    local cap = num(k, 'max_workers')
    local desired = math.max(1, known)
    if cap > 0 then desired = math.min(desired, cap) end
    wanted = math.max(0, math.min(desired, left) - active - redis.call('ZCARD', k.t))
  end
  return { state, left, active, expired, num(k, 'delayed'), wanted }
end

-- tickets expiry_ms id... -> number added; they count as outstanding until they arrive or expire
local function tickets(K, A)
  local k = open_keys(K)
  if redis.call('HGET', k.h, 'state') ~= 'running' then return 0 end
  local t = now_ms() + tonumber(A[1])
  for j = 2, #A do redis.call('ZADD', k.t, t, A[j]) end
  return #A - 1
end
