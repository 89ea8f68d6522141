local function worker_code(k, identity)
  local code = redis.call('HGET', k.w, identity)
  if code then return tonumber(code) end
  code = redis.call('HINCRBY', k.h, 'workers_n', 1)
  redis.call('HSET', k.w, identity, code)
  return code
end

-- Workers that share what is left with the claimer.
local function sharers(head, active)
  local workers, cap = math.max(head.known_workers, active + 1, 1), head.max_workers
  return cap > 0 and math.min(workers, cap) or workers
end

-- How many items a claim may take: the batch size, tapered towards the end when it is automatic.
--   want, floor: as the claimer wrote them; where the size is fixed nobody reads them
local function batch_limit(head, want, floor, left, active)
  local size = head.batch_size
  if head.auto ~= 1 then return math.max(1, size), math.max(1, size) end
  want, floor = tonumber(want), tonumber(floor)
  if size == 0 then size = want > 0 and want or math.max(1, head.last_batch) end
  local taper = math.max(floor, math.ceil(left / (2 * sharers(head, active))))
  return math.max(1, math.min(size, taper)), size
end

-- The same in weight; nothing, as long as nobody knows what a unit takes.
local function weight_limit(head, want, floor, _, active)
  local size = head.weight_size
  if head.auto ~= 1 then return size, size end
  want, floor = tonumber(want), tonumber(floor)
  if size == 0 then size = want > 0 and want or head.weight_last end
  return math.min(size, math.max(floor, head.weight_left / (2 * sharers(head, active)))), size
end

-- The first of the ready ranges -> ranges, items, bytes of their pages, whether nothing may join them, weight.
--   limit: items, or weight where items have one, which does not keep the first item out
local function take_ready(k, limit)
  local taken, n, bytes, seen, full, rest, weight = {}, 0, 0, {}, false, nil, 0
  local heavy = weighted(k)
  local stored = heavy and redis.call('ZRANGE', k.q, 0, GATHERED - 1)
    or redis.call('LRANGE', k.q, 0, math.min(limit, GATHERED) - 1)
  for _, s in ipairs(stored) do
    if full or n > 0 and (heavy and weight or n) >= limit then break end
    local r = range_parse(s, k.q)
    local alone, more = r.sus > 0 or r.solo > 0, bytes
    if alone and n > 0 then break end
    r.starts = page_starts(k, r.a, r.b)
    for _, start in ipairs(r.starts) do
      if not seen[start] then more = more + redis.call('HSTRLEN', k.p, start) end
      seen[start] = true
    end
    full = alone or more > CLAIM_BYTES
    if n > 0 and full then break end
    local some, more_weight = math.min(r.b - r.a, limit - n), 0
    if heavy then some, more_weight = fit(k, r, limit - weight, n == 0) end
    if some == 0 then break end
    bytes = more
    if some < r.b - r.a then
      rest = { a = r.a + some, b = r.b, att = r.att, sus = r.sus, solo = r.solo }
      r.b = rest.a
    end
    taken[#taken + 1] = r
    n, weight = n + some, weight + more_weight
    if rest then break end
  end
  -- everything is parsed; writes from here on
  if #taken > 0 then
    if heavy then redis.call('ZREMRANGEBYRANK', k.q, 0, #taken - 1) else redis.call('LTRIM', k.q, #taken, -1) end
    add(k, 'ready', -n)
    if rest then push_ready(k, rest, true) end
  end
  return taken, n, bytes, full, weight
end

-- Items and keys of the page that begins at `start`, read once a call.
local function read_page(k, start)
  k.read = k.read or {}
  k.read[start] = k.read[start] or redis.call('HMGET', k.p, start, 'k' .. start)
  return k.read[start]
end

-- Next items from the cursor, cut where their pages, beside the `bytes` taken already, would exceed one answer.
local function take_fresh(k, head, limit, bytes)
  local a = head.cursor
  if a >= head.submitted or limit < 1 then return nil end
  local r = { a = a, b = math.min(head.submitted, a + limit), att = 0, sus = 0, solo = 0 }
  r.starts = page_starts(k, r.a, r.b)
  for j = 2, #r.starts do
    bytes = bytes + #(read_page(k, r.starts[j])[1] or '')
    if bytes > CLAIM_BYTES then r.b = tonumber(r.starts[j]) break end
  end
  head.cursor = r.b
  return r
end

local function pages_of(k, c, have)
  local out, seen = {}, {}
  for _, r in ipairs(c.off == 0 and c.ranges or ranges_from(c, c.off)) do
    for _, start in ipairs(r.starts or page_starts(k, r.a, r.b)) do
      local first = start + 0
      if first < r.b and not seen[start] then  -- a range may have been cut since its pages were looked up
        seen[start] = true
        local page = start == have and { '', '' } or read_page(k, start)
        out[#out + 1] = first
        out[#out + 1] = page[1] or corrupt(k.p .. ', field ' .. start, 'missing')
        out[#out + 1] = page[2] or ''
      end
    end
  end
  return out
end

-- How many workers a run wants: all that there are, up to its cap.
local function wanted_workers(cap, known)
  local desired = math.max(1, known)
  if cap > 0 then desired = known > 0 and math.min(cap, desired) or cap end
  return desired
end

-- Whether this claimer should publish one more ticket; registers it when so.
local function spawn_ticket(k, head, left, active, ticket, expiry_ms, t)
  if ticket == '' or left <= 0 then return 0 end
  local desired = wanted_workers(head.max_workers, head.known_workers)
  if active >= desired then return 0 end
  redis.call('ZREMRANGEBYSCORE', k.t, '-inf', t)
  if active + redis.call('ZCARD', k.t) >= desired then return 0 end
  redis.call('ZADD', k.t, t + tonumber(expiry_ms), ticket)
  return 1
end

local function claim_answer(k, head, c, stored, have, left, spawn)
  local answer = { 'ok', stored, head.known_workers, left, spawn, head.item_s, head.last_batch, head.max_workers,
                   head.batch_size, pages_of(k, c, have) }
  if weighted(k) then  -- as text: an answer has whole numbers only
    for j, name in ipairs({ 'weight_left', 'weight_last', 'weight_s' }) do
      answer[10 + j] = string.format('%.17g', head[name])
    end
  end
  return answer
end

-- Writes down the weight that a claim takes -> what is stored of it in the claim.
local function take_weight(k, head, c, left, weight_s)
  if c.size == 0 then c.size, c.limit = c.weight, c.weight end  -- nobody knew better
  head.weight_left = left > 0 and math.max(0, head.weight_left - c.weight) or 0
  head.weight_last = c.size
  head.weight_s = tonumber(weight_s or 0) > 0 and tonumber(weight_s) or head.weight_s
  redis.call('HSET', k.h, 'weight_left', string.format('%.17g', head.weight_left), 'weight_last',
    string.format('%.17g', c.size), 'weight_s', string.format('%.17g', head.weight_s))
  return struct.pack(CLAIM_WEIGHTS, c.size, c.limit, c.weight)
end

-- What a claim and a commit need of the head, nil when the run is gone. They are most of what a batch costs the server,
-- so what few of them need is read where it is needed.
local HEAD = { 'state', 'item_s', 'created_at', 'generation', 'weight_size', 'submitted', 'cursor', 'ready', 'claimed',
  'batch_size', 'auto', 'max_workers', 'known_workers', 'last_batch', 'lease_ms', 'ok', 'rows', 'release', 'breaker',
  'page_items' }

local function read_head(k)
  local v = redis.call('HMGET', k.h, unpack(HEAD))
  if not v[1] then return nil end
  k.weighted, k.page_items = v[5] ~= false, (v[20] or 0) + 0
  if not tonumber(v[2]) then corrupt(k.h .. ', field item_s', v[2] or 'missing') end
  local head = { state = v[1], item_s = v[2], created_at = v[3], generation = v[4], weight_size = (v[5] or 0) + 0,
    submitted = v[6] + 0, cursor = v[7] + 0, ready = v[8] + 0, claimed = v[9] + 0, batch_size = v[10] + 0,
    auto = v[11] + 0, max_workers = v[12] + 0, known_workers = v[13] + 0, last_batch = v[14] + 0, lease_ms = v[15] + 0,
    ok = v[16] + 0, rows = v[17] + 0, release = v[18] + 0, breaker = v[19] + 0 }
  head.stored_claimed = head.claimed
  if k.weighted then head.weight_left, head.weight_last, head.weight_s = nums(k, 'weight_left', 'weight_last', 'weight_s') end
  return head
end

local function say(said, field, value)
  said[#said + 1] = field
  said[#said + 1] = value
end

-- claim id identity want floor have ticket new_ticket ticket_expiry_ms born generation [weight_s]
--   born: created_at of the run as the claimer knows it, 0 when it says nothing. A run id may be used again once its run
--     is gone, and what the claimer keeps of that one, its page, task and arguments, is not of this one
--   generation: of the run as the claimer knows it, -1 when it says nothing. Another one may begin with mended code
--   weight_s: seconds of a unit of weight, as the claimer measured them; 0 when it does not know
-- -> {'ok', claim as it is stored, known, left, spawn, item_s, last_batch, max_workers, batch_size, pages
--     [, weight_left, weight_last, weight_s]}
--    | {state | 'busy' | 'empty' | 'gone' | 'other' | 'anew' | 'norun', left}
-- beside a claim, the state of its run: a repeated call may find it paused
-- head: as read by this call; its `unsaid` are fields that a commit leaves to be written with the claim's own, beside
--   `claimed`, which stays as it is where as many items are taken as were committed
-- before: the claim that this call has just closed, of the same worker. So nobody can have used this id
local function do_claim(k, A, i, head, before)
  local id, have, born, generation = A[i], A[i + 4], A[i + 8], A[i + 9]
  local left = head.submitted - head.cursor + head.ready
  if born ~= '0' and born ~= head.created_at then return { 'other', 0 } end
  if not before then
    local old = redis.call('HGET', k.c, id)
    if old then return claim_answer(k, head, claim_parse(k, old), old, have, left, 0), check_state(k, head.state) end
    if redis.call('ZSCORE', k.z, id) then return { 'gone', 0 } end
  end
  if head.state == 'running' and generation ~= '-1' and generation ~= head.generation then return { 'anew', left } end
  if A[i + 5] ~= '' then redis.call('ZREM', k.t, A[i + 5]) end
  if head.state ~= 'running' then return { check_state(k, head.state), 0 } end
  local active, cap = redis.call('HLEN', k.c), head.max_workers
  if left <= 0 then return { 'empty', num(k, 'delayed') } end
  if cap > 0 and active >= cap then return { 'busy', left } end
  local limit, asked = (weighted(k) and weight_limit or batch_limit)(head, A[i + 2], A[i + 3], left, active)
  local taken, n, bytes, full, weight = {}, 0, 0, false, 0
  if head.ready > 0 then taken, n, bytes, full, weight = take_ready(k, limit) end
  if not full and n < limit then
    local fresh = take_fresh(k, head, limit - n, bytes)
    if fresh then taken[#taken + 1] = fresh n = n + fresh.b - fresh.a end
  end
  local parts = {}
  for j, r in ipairs(taken) do parts[j] = struct.pack(CLAIM_RANGE, r.a, r.b - r.a, r.att, r.sus, r.solo) end
  local t = now_ms(k)
  left = left - n
  local weights = ''
  if weighted(k) then asked, weights = n, take_weight(k, head, { size = asked, limit = limit, weight = weight }, left, A[i + 10]) end
  local c = { kind = weighted(k) and 2 or 1, lease = t + head.lease_ms, at = t, off = 0, asked = asked,
              who = before and before.who or worker_code(k, A[i + 1]), active = active + 1, ok = 0, retried = 0, dead = 0,
              ranges = taken, total = n, rest = weights .. table.concat(parts) }
  local stored = claim_store(k, id, c)
  local said = head.unsaid or {}
  say(said, 'cursor', head.cursor)
  if head.claimed + n ~= head.stored_claimed then say(said, 'claimed', head.claimed + n) end
  if head.last_batch ~= asked then say(said, 'last_batch', asked) end
  if head.last_batch == 0 then say(said, 'started_at', t) end  -- there was no batch before
  redis.call('HSET', k.h, unpack(said))
  head.unsaid, head.last_batch = nil, asked
  local spawn = spawn_ticket(k, head, left, active + 1, A[i + 6], A[i + 7], t)
  return claim_answer(k, head, c, stored, have, left, spawn), 'running'
end

local function claim(K, A)
  local k = open_keys(K)
  local head = read_head(k)
  if not head then return { 'norun', 0 } end
  return do_claim(k, A, 1, head)
end
