local function worker_code(k, identity)
  local code = redis.call('HGET', k.w, identity)
  if code then return tonumber(code) end
  code = redis.call('HINCRBY', k.h, 'workers_n', 1)
  redis.call('HSET', k.w, identity, code)
  return code
end

-- How many items a claim may take: the batch size, tapered towards the end when it is automatic.
local function batch_limit(k, want, floor, left, active)
  local v = redis.call('HMGET', k.h, 'batch_size', 'auto', 'max_workers', 'known_workers', 'last_batch')
  local size = tonumber(v[1])
  if v[2] ~= '1' then return math.max(1, size), math.max(1, size) end
  if size == 0 then size = want > 0 and want or math.max(1, tonumber(v[5])) end
  local workers, cap = math.max(tonumber(v[4]), active + 1, 1), tonumber(v[3])
  if cap > 0 then workers = math.min(workers, cap) end
  local taper = math.max(floor, math.ceil(left / (2 * workers)))
  return math.max(1, math.min(size, taper)), size
end

-- Ranges from the left of the ready list -> ranges, items, bytes of their pages, whether nothing may join them.
local function take_ready(k, limit)
  local taken, n, bytes, seen, full, rest = {}, 0, 0, {}, false, nil
  for _, s in ipairs(redis.call('LRANGE', k.q, 0, math.min(limit, GATHERED) - 1)) do
    if n >= limit or full then break end
    local r = range_parse(s, k.q)
    local alone, more = r.sus > 0 or r.solo > 0, bytes
    if alone and n > 0 then break end
    for _, start in ipairs(page_starts(k, r)) do
      if not seen[start] then more = more + redis.call('HSTRLEN', k.p, start) end
      seen[start] = true
    end
    full = alone or more > CLAIM_BYTES
    if n > 0 and full then break end
    bytes = more
    if r.b - r.a > limit - n then
      rest = { a = r.a + limit - n, b = r.b, att = r.att, sus = r.sus, solo = r.solo }
      r.b = rest.a
    end
    taken[#taken + 1] = r
    n = n + r.b - r.a
  end
  -- everything is parsed; writes from here on
  if #taken > 0 then
    redis.call('LTRIM', k.q, #taken, -1)
    add(k, 'ready', -n - (rest and rest.b - rest.a or 0))
    if rest then give_back(k, rest, 0, true) end
  end
  return taken, n, bytes, full
end

-- Next items from the cursor, cut where their pages, beside the `bytes` taken already, would exceed one answer.
local function take_fresh(k, limit, bytes)
  local v = redis.call('HMGET', k.h, 'cursor', 'submitted')
  local a, hw = tonumber(v[1]), tonumber(v[2])
  if a >= hw or limit < 1 then return nil end
  local b = math.min(hw, a + limit)
  for _, start in ipairs(redis.call('ZRANGEBYSCORE', k.pi, '(' .. string.format('%d', a), '(' .. string.format('%d', b))) do
    bytes = bytes + redis.call('HSTRLEN', k.p, start)
    if bytes > CLAIM_BYTES then b = tonumber(start) break end
  end
  redis.call('HSET', k.h, 'cursor', string.format('%d', b))
  return { a = a, b = b, att = 0, sus = 0, solo = 0 }
end

local function pages_of(k, c, have)
  local out, seen = {}, {}
  for _, r in ipairs(ranges_from(c, c.off)) do
    for _, start in ipairs(page_starts(k, r)) do
      if not seen[start] then
        seen[start] = true
        out[#out + 1] = tonumber(start)
        if start == have then
          out[#out + 1] = '' out[#out + 1] = ''
        else
          out[#out + 1] = redis.call('HGET', k.p, start) or corrupt(k.p .. ', field ' .. start, 'missing')
          out[#out + 1] = redis.call('HGET', k.p, 'k' .. start) or ''
        end
      end
    end
  end
  return out
end

-- Whether this claimer should publish one more ticket; registers it when so.
local function spawn_ticket(k, active, ticket, expiry_ms, t)
  if ticket == '' or available(k) <= 0 then return 0 end
  redis.call('ZREMRANGEBYSCORE', k.t, '-inf', t)
  local v = redis.call('HMGET', k.h, 'max_workers', 'known_workers')
  local cap, known = tonumber(v[1]), tonumber(v[2])
  local desired = math.max(1, known)
  if cap > 0 then desired = known > 0 and math.min(cap, desired) or cap end
  if active + redis.call('ZCARD', k.t) >= desired then return 0 end
  redis.call('ZADD', k.t, t + expiry_ms, ticket)
  return 1
end

local function claim_answer(k, c, have, spawn)
  local v = redis.call('HMGET', k.h, 'known_workers', 'item_s', 'last_batch', 'max_workers', 'batch_size')
  return { 'ok', c.at, c.who, c.active, tonumber(v[1]), available(k), spawn, v[2], tonumber(v[3]), tonumber(v[4]),
           c.off, c.asked, c.rest, pages_of(k, c, have), tonumber(v[5]) }
end

-- claim id identity want floor have ticket new_ticket ticket_expiry_ms
-- -> {'ok', at, worker, active, known, left, spawn, item_s, last_batch, max_workers, off, asked, ranges, pages, batch_size}
--    | {state | 'busy' | 'empty' | 'gone' | 'norun', left}
local function do_claim(k, A, i)
  local id, want, floor, have = A[i], tonumber(A[i + 2]), tonumber(A[i + 3]), A[i + 4]
  local state = redis.call('HGET', k.h, 'state')
  if not state then return { 'norun', 0 } end
  local old = redis.call('HGET', k.c, id)
  if old then return claim_answer(k, claim_parse(k, old), have, 0) end
  if redis.call('ZSCORE', k.z, id) then return { 'gone', 0 } end
  if A[i + 5] ~= '' then redis.call('ZREM', k.t, A[i + 5]) end
  if state ~= 'running' then return { state, 0 } end
  local active, cap, left = redis.call('HLEN', k.c), num(k, 'max_workers'), available(k)
  if left <= 0 then return { 'empty', num(k, 'delayed') } end
  if cap > 0 and active >= cap then return { 'busy', left } end
  local limit, asked = batch_limit(k, want, floor, left, active)
  local taken, n, bytes, full = take_ready(k, limit)
  if not full and n < limit then
    local fresh = take_fresh(k, limit - n, bytes)
    if fresh then taken[#taken + 1] = fresh n = n + fresh.b - fresh.a end
  end
  local parts = {}
  for j, r in ipairs(taken) do parts[j] = range_text(r.a, r.b, r.att, r.sus, r.solo) end
  local t = now_ms()
  local c = { off = 0, asked = asked, at = t, who = worker_code(k, A[i + 1]), active = active + 1,
              ok = 0, retried = 0, dead = 0, ranges = taken, total = n, rest = table.concat(parts, ',') }
  claim_store(k, id, c)
  redis.call('ZADD', k.l, t + num(k, 'lease_ms'), id)
  add(k, 'claimed', n)
  redis.call('HSET', k.h, 'last_batch', asked)
  if num(k, 'started_at') == 0 then redis.call('HSET', k.h, 'started_at', t) end
  return claim_answer(k, c, have, spawn_ticket(k, active + 1, A[i + 6], tonumber(A[i + 7]), t))
end

local function claim(K, A)
  return do_claim(open_keys(K), A, 1)
end
