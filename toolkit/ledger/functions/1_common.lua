-- The run ledger: every transition of a run is one function here, executed by the server in one slot.
--
-- Each function validates first and writes afterwards (the server does not roll back), takes the time
-- from the server, and may be called again with the same arguments without a second effect.
--
-- KEYS, always all of them and in this order (written in keys.py beside their types and lifetimes):
--   1 head  2 pages  3 page_index  4 ready  5 delayed  6 claims  7 dead  8 outputs
--   9 metrics (segments: metrics:0, metrics:1, ...)  10 workers  11 events  12 closed  13 tickets
--
-- A range is the text a:b:att:sus:solo
--   [a, b) item indexes; att attempts made so far; sus process deaths it is suspected of;
--   solo 1 when it must not be gathered with other ranges.
-- A claim is stored as numbers side by side, see stored.py: its kind, 1, or 2 where items have weights; lease, its end, and
--   at, its begin, in milliseconds; off items already committed from its start; asked batch size; worker identity code;
--   active claims of the run at that moment, this one included; ok, retried, dead among the committed ones; of kind 2
--   size, limit, weight, see 1_weights.lua; then of each range a, b - a, att, sus, solo.
--
-- A run whose items have weights is told by the field weight_size of its head, see 1_weights.lua.

-- What the server offers is kept in locals: to look up a global takes twenty times as long. While the library loads hardly
-- anything is there, so they are filled at the first call.
local function offered()
  return redis, string, math, table, struct, tonumber, tostring, type, ipairs, pairs, unpack, error, pcall
end
local redis, string, math, table, struct, tonumber, tostring, type, ipairs, pairs, unpack, error, pcall = redis

local function offer(name, fn, flags)
  local function ready(K, A)
    if not pcall then
      redis, string, math, table, struct, tonumber, tostring, type, ipairs, pairs, unpack, error, pcall = offered()
    end
    return fn(K, A)
  end
  redis.register_function { function_name = '__PREFIX__' .. name, callback = ready, flags = flags }
end

local CLOSED_KEPT = 4096      -- closed claim ids remembered, so that a repeated call finds its answer
local CLOSED_TRIM = 64        -- rows after which those beyond are forgotten: it need not be at each commit
local GATHERED = 64           -- ready ranges in one claim at most
local CLAIM_BYTES = 33554432  -- page bytes in one answer at most, more only for a single page
local LATE_TICKET_MS = 2000   -- a ticket this old counts as lost once workers stand idle
local WINDOW = 200            -- executed items after which the breaker's counts are halved
local CLAIM, CLAIM_SIZE = '__CLAIM_FORMAT__', __CLAIM_SIZE__
local CLAIM_WEIGHTS, CLAIM_WEIGHTS_SIZE = '__CLAIM_WEIGHTS_FORMAT__', __CLAIM_WEIGHTS_SIZE__
local CLAIM_RANGE, CLAIM_RANGE_SIZE = '__CLAIM_RANGE_FORMAT__', __CLAIM_RANGE_SIZE__
local CATEGORIES = { __CATEGORIES__ }
local CODES = {}              -- category -> its code in a metric row
for code = 1, #CATEGORIES do CODES[CATEGORIES[code]] = code end  -- ipairs is not there while the library loads

local function open_keys(K)
  return { h = K[1], p = K[2], pi = K[3], q = K[4], d = K[5], c = K[6], x = K[7], o = K[8], m = K[9],
           w = K[10], e = K[11], z = K[12], t = K[13],
           now = false, read = false, sums = false, page_items = false }  -- what the call finds out: named here, the table need not grow
end

-- Whole numbers are given to redis.call as they are: the server writes them out exactly, up to 2^53, and in a tenth of
-- the time of string.format. Only what is joined to a text is formatted first, since `..` keeps 14 digits.

-- A text that a pattern or the server itself says is a number becomes one in a sum: half the time of tonumber. So do the
-- fields of the head: where one does not hold a number the call fails there, and `diagnose` says which it is.

-- The server's time, which stands still during a call.
local function now_ms(k)
  if not k.now then
    local t = redis.call('TIME')
    k.now = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return k.now
end

-- Ends the call: what `where` names does not parse. The door reads both parts (connection.py).
local function corrupt(where, text)
  error('CORRUPT <' .. where .. '> <' .. (string.gsub(string.sub(text, 1, 40), '[^%w:;,. -]', '?')) .. '>')
end

local function num(k, field)
  local v = redis.call('HGET', k.h, field)
  if not v then return 0 end
  return tonumber(v) or corrupt(k.h .. ', field ' .. field, v)
end

-- Several numbers of the head in one call; the cost of a call is most of the cost of a transition.
local function nums(k, ...)
  local names = { ... }
  local v = redis.call('HMGET', k.h, ...)
  for j, name in ipairs(names) do v[j] = tonumber(v[j] or 0) or corrupt(k.h .. ', field ' .. name, v[j]) end
  return unpack(v, 1, #names)
end

local function add(k, field, n)
  if n ~= 0 then redis.call('HINCRBY', k.h, field, n) end
end

local function range_text(a, b, att, sus, solo)
  return string.format('%d:%d:%d:%d:%d', a, b, att, sus, solo)
end

local function range_parse(s, key)
  local a, b, att, sus, solo = string.match(s, '^(%d+):(%d+):(%d+):(%d+):(%d+)$')
  if not a then corrupt(key, s) end
  return { a = a + 0, b = b + 0, att = att + 0, sus = sus + 0, solo = solo + 0 }
end

local weight_of  -- of runs whose items have weights, see 1_weights.lua

local function claim_parse(k, s)
  local kind = string.byte(s)
  local first = kind == 1 and CLAIM_SIZE + 1 or kind == 2 and CLAIM_SIZE + CLAIM_WEIGHTS_SIZE + 1  -- byte of the ranges
  if not first or #s < first or (#s + 1 - first) % CLAIM_RANGE_SIZE ~= 0 then corrupt(k.c, s) end
  local _, lease, at, off, asked, who, active, ok, retried, dead = struct.unpack(CLAIM, s)
  local ranges, total = {}, 0
  for pos = first, #s, CLAIM_RANGE_SIZE do
    local a, n, att, sus, solo = struct.unpack(CLAIM_RANGE, s, pos)
    if n == 0 then corrupt(k.c, s) end
    ranges[#ranges + 1] = { a = a, b = a + n, att = att, sus = sus, solo = solo }
    total = total + n
  end
  if off > total then corrupt(k.c, s) end
  local c = { kind = kind, lease = lease, at = at, off = off, asked = asked, who = who, active = active, ok = ok,
              retried = retried, dead = dead, ranges = ranges, total = total, rest = string.sub(s, CLAIM_SIZE + 1) }
  k.weighted = kind == 2
  if k.weighted then
    c.size, c.limit, c.weight = struct.unpack(CLAIM_WEIGHTS, c.rest)
    if not (c.size > 0 and c.limit >= 0 and c.weight > 0) then corrupt(k.c, s) end
  end
  return c
end

-- Stores a claim -> as it is stored.
local function claim_store(k, id, c)
  local s = struct.pack(CLAIM, c.kind, c.lease, c.at, c.off, c.asked, c.who, c.active, c.ok, c.retried, c.dead) .. c.rest
  redis.call('HSET', k.c, id, s)
  return s
end

-- Gives the stored claim `s` another end of its lease.
local function lease_until(k, id, s, ends)
  redis.call('HSET', k.c, id, string.sub(s, 1, 1) .. struct.pack('<d', ends) .. string.sub(s, 10))
end

-- The parts of a claim's ranges from offset `off` on.
local function ranges_from(c, off)
  local out, pos = {}, 0
  for _, r in ipairs(c.ranges) do
    local n = r.b - r.a
    if pos + n > off then
      local skip = math.max(0, off - pos)
      out[#out + 1] = { a = r.a + skip, b = r.b, att = r.att, sus = r.sus, solo = r.solo }
    end
    pos = pos + n
  end
  return out
end

local function event(k, kind, detail)
  local v = redis.call('HMGET', k.h, 'ok', 'dead', 'retried', 'submitted', 'skipped')
  redis.call('XADD', k.e, 'MAXLEN', '~', 10000, '*', 'event', kind, 'ok', v[1] or 0, 'dead', v[2] or 0,
    'retried', v[3] or 0, 'submitted', v[4] or 0, 'skipped', v[5] or 0, 'detail', detail or '')
end

local STATES = { running = true, paused = true, cancelling = true, cancelled = true, finished = true }

local function check_state(k, state)
  return STATES[state] and state or corrupt(k.h .. ', field state', state)
end

-- Items that nobody holds.
local function available(k)
  local submitted, cursor, ready = nums(k, 'submitted', 'cursor', 'ready')
  return submitted - cursor + ready
end

-- Whether the items of the run have weights.
local function weighted(k)
  if k.weighted == nil then k.weighted = redis.call('HEXISTS', k.h, 'weight_size') == 1 end
  return k.weighted
end

local function add_weight(k, weight)
  redis.call('HSET', k.h, 'weight_left', string.format('%.17g', math.max(0, num(k, 'weight_left') + weight)))
end

-- Among the ready ranges, uncounted. Where items have weights, single ones by weight, the heaviest first; then longer
-- ranges in the order of the input. Returns the weight, 0 where there are none.
local function push_ready(k, r, front)
  local text, weight = range_text(r.a, r.b, r.att, r.sus, r.solo), 0
  if weighted(k) then
    weight = weight_of(k, r)
    redis.call('ZADD', k.q, r.b - r.a == 1 and string.format('%.17g', -weight) or string.format('%d', r.a), text)
  else
    redis.call(front and 'LPUSH' or 'RPUSH', k.q, text)
  end
  return weight
end

-- Back to the ready ranges, or to the delayed set when `delay` milliseconds are given.
local function give_back(k, r, delay, front)
  local n = r.b - r.a
  if n <= 0 then return end
  if delay and delay > 0 then
    redis.call('ZADD', k.d, now_ms(k) + delay, range_text(r.a, r.b, r.att, r.sus, r.solo))
    add(k, 'delayed', n)
  else
    local weight = push_ready(k, r, front)
    add(k, 'ready', n)
    if weight > 0 then add_weight(k, weight) end
  end
end

-- Several ranges to the front of the ready list, the first of them first.
local function give_all_back(k, ranges)
  for j = #ranges, 1, -1 do give_back(k, ranges[j], 0, true) end
end

local function keys_of(k)
  local all = { k.h, k.p, k.pi, k.q, k.d, k.c, k.x, k.o, k.w, k.e, k.z, k.t }
  for i = 0, math.floor(num(k, 'rows') / __SEGMENT_ROWS__) do all[#all + 1] = k.m .. ':' .. i end
  return all
end

-- Starts of the pages that the items [a, b) touch, as texts.
local function page_starts(k, a, b)
  k.page_items = k.page_items or num(k, 'page_items')
  if k.page_items > 0 then  -- all pages have as many
    local starts = {}
    for start = a - a % k.page_items, b - 1, k.page_items do starts[#starts + 1] = string.format('%d', start) end
    return starts
  end
  -- Mostly they are one or two: the last three up to the range's end hold them all once one of these begins at or
  -- before it, which saves the second call.
  local last = redis.call('ZREVRANGEBYSCORE', k.pi, b - 1, '-inf', 'LIMIT', 0, 3)
  for n = 1, #last do
    if last[n] + 0 <= a then
      local starts = {}
      for j = n, 1, -1 do starts[n + 1 - j] = last[j] end
      return starts
    end
  end
  local first = redis.call('ZREVRANGEBYSCORE', k.pi, a, '-inf', 'LIMIT', 0, 1)[1]
  if not first then corrupt(k.pi, string.format('no page for item %d', a)) end
  return redis.call('ZRANGEBYSCORE', k.pi, first, b - 1)
end

-- Items [a, b) ended, or (by -1) did not after all. Where the run releases its pages, one whose items all ended goes.
local function ended(k, a, b, by)
  local starts = page_starts(k, a, b)
  for j, start in ipairs(starts) do
    local low, high = math.max(a, start), starts[j + 1] or b
    local left = redis.call('HINCRBY', k.p, 'n' .. start, by * (low - high))
    if left == 0 then
      redis.call('HDEL', k.p, start, 'k' .. start, 'n' .. start, 'w' .. start)
      redis.call('ZREM', k.pi, start)
    end
  end
end

-- What was skipped needs its pages no more; those of dead letters stay until these are dropped, without the weights,
-- since nothing of a cancelled run is executed. Takes as long as there are dead letters, however many pages go.
local function keep_dead_pages(k)
  local left, kept = {}, {}
  for _, index in ipairs(redis.call('HKEYS', k.x)) do
    local start = page_starts(k, tonumber(index), tonumber(index) + 1)[1]
    left[start] = (left[start] or 0) + 1
  end
  for start, n in pairs(left) do
    local page = redis.call('HMGET', k.p, start, 'k' .. start)
    kept[#kept + 1] = { start = start, n = n, items = page[1], keys = page[2] }
  end
  redis.call('UNLINK', k.p, k.pi)
  for _, page in ipairs(kept) do
    redis.call('HSET', k.p, 'n' .. page.start, page.n)
    if page.items then redis.call('HSET', k.p, page.start, page.items) end
    if page.keys then redis.call('HSET', k.p, 'k' .. page.start, page.keys) end
    redis.call('ZADD', k.pi, page.start, page.start)
  end
end

local function pause(k, reason)
  if redis.call('HGET', k.h, 'state') ~= 'running' then return end
  redis.call('HSET', k.h, 'state', 'paused', 'reason', reason)
  event(k, 'pause', reason)
end

local function forget_errors(k)
  redis.call('HDEL', k.h, 'recent', 'reason')
  for _, c in ipairs(CATEGORIES) do redis.call('HDEL', k.h, 'recent:' .. c) end
end

-- Counts `n` executed items and the failed ones among them by category, and pauses the run when too many of the
-- latest failed alike. One that is to run again uncharged did not fail by its own fault and does not count.
local function count_errors(k, n, failed, share)
  if #failed == 0 and share <= 0 then return end
  local by = {}
  for _, f in ipairs(failed) do
    if f.kind ~= 'again' then by[f.category] = (by[f.category] or 0) + 1 end
  end
  for _, c in ipairs(CATEGORIES) do add(k, 'errors:' .. c, by[c] or 0) end
  if share <= 0 or n == 0 then return end
  local least, seen = num(k, 'breaker_items'), redis.call('HINCRBY', k.h, 'recent', n)
  for _, c in ipairs(CATEGORIES) do
    if by[c] then
      local m = redis.call('HINCRBY', k.h, 'recent:' .. c, by[c])
      if seen >= least and m > share * seen then
        pause(k, string.format('%d of the latest %d items failed with category %s', m, seen, c))
      end
    end
  end
  if seen > WINDOW then
    redis.call('HSET', k.h, 'recent', math.floor(seen / 2))
    for _, c in ipairs(CATEGORIES) do
      local m = num(k, 'recent:' .. c)
      if m > 0 then redis.call('HSET', k.h, 'recent:' .. c, math.floor(m / 2)) end
    end
  end
end

-- From the end of a run its retention counts; but dead letters stay until somebody retries or drops them, and with
-- them everything that tells what they were.
local function expire(k)
  local keep = num(k, 'retention_ms')
  if keep > 0 and num(k, 'dead') == 0 then
    for _, key in ipairs(keys_of(k)) do redis.call('PEXPIRE', key, keep) end
  end
end

local function finish(k, state, t)
  redis.call('HSET', k.h, 'state', state, 'finished_at', t)
  add(k, 'finals', 1)
  event(k, state, '')
  expire(k)
end

-- Ends the run when nothing is left to do; returns the state.
local function settle(k)
  local v = redis.call('HMGET', k.h, 'state', 'closed', 'submitted', 'ok', 'dead', 'skipped', 'release', 'weight_left')
  local state = v[1]
  if state ~= 'running' and state ~= 'paused' and state ~= 'cancelling' then return check_state(k, state or 'missing') end
  if redis.call('HLEN', k.c) > 0 then return state end
  local submitted, ended = tonumber(v[3]), tonumber(v[4]) + tonumber(v[5]) + tonumber(v[6])
  if state == 'cancelling' then
    redis.call('DEL', k.q, k.d, k.t)
    redis.call('HSET', k.h, 'ready', 0, 'delayed', 0, 'cursor', submitted, 'closed', 1)
    if v[8] then redis.call('HSET', k.h, 'weight_left', 0) end
    add(k, 'skipped', submitted - ended)
    if v[7] == '1' then keep_dead_pages(k) end
    finish(k, 'cancelled', now_ms(k))
    return 'cancelled'
  end
  if v[2] == '1' and ended == submitted then
    redis.call('DEL', k.t)
    finish(k, 'finished', now_ms(k))
    return 'finished'
  end
  return state
end

-- Stores the metric row of a batch, the `n`th of the run; counting it is the caller's.
local function row_append(k, n, row)
  redis.call('APPEND', k.m .. ':' .. math.floor((n - 1) / __SEGMENT_ROWS__), row)
end

-- A claim id that will never live again. how: 1 closed by its commit, 0 taken away; nth: the number of its metric row.
-- Called before anything else is written of the end of a claim: where this key cannot be, nothing is.
local function close_id(k, id, how, nth)
  redis.call('ZADD', k.z, now_ms(k) * 2 + how, id)
  if not nth or nth % CLOSED_TRIM == 0 then redis.call('ZREMRANGEBYRANK', k.z, 0, -CLOSED_KEPT - 1) end
end

-- The claim of a closed id.
local function close_claim(k, id, c)
  redis.call('HDEL', k.c, id)
  add(k, 'claimed', -(c.total - c.off))
end

local function bury(k, index, blob)
  redis.call('HSET', k.x, index, blob)
  add(k, 'dead', 1)
end
