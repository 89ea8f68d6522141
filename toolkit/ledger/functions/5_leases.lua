-- renew known_workers id... -> {state, batch_size, max_workers, terminate, gone id...}
--   terminate: 1 when what still runs of a cancelled run is to be killed
local function renew(K, A)
  local k = open_keys(K)
  local state = redis.call('HGET', k.h, 'state')
  if not state then return { 'norun', 0, 0, 0 } end
  local size, cap, lease, due = nums(k, 'batch_size', 'max_workers', 'lease_ms', 'terminate_at')
  local t = now_ms(k)
  local out = { check_state(k, state), size, cap, state == 'cancelling' and due > 0 and t >= due and 1 or 0 }
  redis.call('HSET', k.h, 'known_workers', A[1])
  for j = 2, #A do
    local stored = redis.call('HGET', k.c, A[j])
    if stored and claim_parse(k, stored) then lease_until(k, A[j], stored, t + lease) else out[#out + 1] = A[j] end
  end
  return out
end

-- The metric row of a batch whose process died: all its items, and how those that it had committed ended.
-- struct layout generated from records.METRIC_FIELDS
local function cut_row(c, outcome_at, category)
  local att = 0
  for _, r in ipairs(c.ranges) do att = math.max(att, r.att + 1) end
  return struct.pack('__ROW_FORMAT__', c.who, __FLAG_CUT_OFF__, __OUTCOME_LOST__, CODES[category], att, c.active, 0,
    c.asked, c.total, c.ok, c.retried, c.dead, c.size or 0, c.weight or 0, c.ranges[1].a, c.at / 1000, (outcome_at - c.at) / 1000, 0, 0, 0 / 0,
    0, 0, 0, 0, 0, 0, 0, 0)
end

-- Whether item `index` of range `r`, whose process died executing it, is tried again; how, and when.
--   A process that died by itself makes its item a suspect, to be tried alone; three suspicions bury it (five where
--   only whole nodes died). A process that was killed since its item took too long costs the item an attempt.
local function try_again(k, c, r, index, cause)
  local suspicion = cause.category == 'timeout' and 0 or 1
  if (suspicion == 1 and r.sus or r.att) + 1 >= cause.limit then return false end
  if suspicion == 0 then
    add(k, 'retried', 1)
    c.retried = c.retried + 1
  end
  local delay = suspicion == 0 and cause.delay or 0
  give_back(k, { a = index, b = index + 1, att = r.att + 1, sus = r.sus + suspicion, solo = 1 }, delay, true)
  return true
end

-- Closes the claim of a dead process. blamed: offset of the item that it was executing, -1 unknown, -2 none is to blame.
--   cause: category, limit (suspicions, or attempts for a timeout), delay, blob (the dead letter)
local function lose(k, id, blamed, cause)
  local stored = redis.call('HGET', k.c, id)
  if not stored then return 0 end
  local c = claim_parse(k, stored)
  local left = c.total - c.off
  close_id(k, id, 0)
  close_claim(k, id, c)
  add(k, 'lost', 1)
  local free = blamed == -2
  if blamed < c.off or blamed >= c.total then blamed = nil end
  if left == 1 and not free then blamed = c.off end
  local rest = ranges_from(c, c.off)
  if blamed then
    -- from the last to the first, each in front of those given back before
    local pos = c.total
    for j = #rest, 1, -1 do
      local r = rest[j]
      pos = pos - (r.b - r.a)
      local bad = r.a + blamed - pos
      if bad >= r.a and bad < r.b then
        give_back(k, { a = bad + 1, b = r.b, att = r.att, sus = 0, solo = 0 }, 0, true)
        if not try_again(k, c, r, bad, cause) then
          bury(k, bad, cause.blob)
          c.dead = c.dead + 1
          event(k, 'item_dead', string.format('%d %s', bad, cause.category))
        end
        give_back(k, { a = r.a, b = bad, att = r.att, sus = 0, solo = 0 }, 0, true)
      else
        give_back(k, r, 0, true)
      end
    end
    add(k, 'errors:' .. cause.category, 1)
  elseif left > 1 and not free then
    give_back_halves(k, rest, left)
  else
    give_all_back(k, rest)
  end
  row_append(k, redis.call('HINCRBY', k.h, 'rows', 1), cut_row(c, now_ms(k), cause.category))
  event(k, 'worker_lost', string.format('%d items, %s', left, cause.category))
  return 1
end

-- lost id blamed category limit delay_ms blob -> {number of claims closed, state}
--   blamed: absolute offset in the claim of the item that was being executed, -1 when unknown, -2 when none is to blame
--   category: why the process died; limit: attempts of an item whose category is timeout; 0 takes the run's suspicions
local function lost(K, A)
  local k = open_keys(K)
  if redis.call('EXISTS', k.h) == 0 then return { 0, 'norun' } end
  local limit = tonumber(A[4])
  local cause = { category = CODES[A[3]] and A[3] or 'worker_lost', limit = limit > 0 and limit or num(k, 'max_suspect'),
                  delay = tonumber(A[5]), blob = A[6] }
  local n = lose(k, A[1], tonumber(A[2]), cause)
  return { n, settle(k) }
end

local LOST_AT_ONCE = 100      -- claims that one sweep closes at most
local SAMPLE_MS = 500         -- progress events of a run are at least so far apart,
local SAMPLES = 1000          -- and later at least a thousandth of its age: then those of a week fit under the cap

-- An event where counters have changed since the last sample: `item_dead` when there are more dead letters, else
-- `progress`. Samples, and not an event a claim, commit or item: those would cost each batch 5 us more, and push what
-- happened rarely out of the stream.
local function sample(k)
  local v = redis.call('HMGET', k.h, 'ok', 'dead', 'retried', 'submitted', 'skipped', 'sampled', 'created_at')
  local seen = table.concat({ v[1] or 0, v[2] or 0, v[3] or 0, v[4] or 0, v[5] or 0 }, ' ')
  local at, before = string.match(v[6] or '', '^(%d+):(.*)$')
  local t, created = now_ms(k), tonumber(v[7] or 0) or 0
  if before == seen or t - (tonumber(at) or created) < math.max(SAMPLE_MS, (t - created) / SAMPLES) then return end
  redis.call('HSET', k.h, 'sampled', string.format('%d:%s', t, seen))
  local more = (tonumber(v[2]) or 0) - (tonumber(string.match(before or '', '^%d+ (%d+) ')) or 0)
  if more > 0 then event(k, 'item_dead', string.format('%d more', more)) else event(k, 'progress', '') end
end

-- Whether the leases tell who lives, `gap` being the longest time of silence that says nothing. They do not when nobody
-- swept for longer: the server or every node may have been away, and who lives could not renew. Unless whoever sweeps
-- now was itself in touch all the while: then the server was there, and it was the sweeper that died.
local function leases_tell(k, t, last, gap, since, seen)
  if last == 0 or (t >= last and t - last <= gap) then return true end
  if t < last or t - seen > gap then return false end
  return since <= math.max(last, t - num(k, 'lease_ms'))
end

-- Closes the claims whose leases are over, a hundred at most, those first that ended first -> how many, and when the next
-- lease ends, nil for none.
--   dead: codes of workers whose leases are over now; granted: when those of the others end, nil for when they say
local function lose_expired(k, t, dead, granted)
  local claims, over, due, n = redis.call('HGETALL', k.c), {}, nil, 0
  for j = 1, #claims, 2 do
    local id, stored = claims[j], claims[j + 1]
    local c = claim_parse(k, stored)
    local ends = dead[c.who] and 0 or granted or c.lease
    if ends ~= c.lease then lease_until(k, id, stored, ends) end
    if ends <= t then over[#over + 1] = { id = id, ends = ends } else due = math.min(due or ends, ends) end
  end
  table.sort(over, function(a, b) return a.ends < b.ends or a.ends == b.ends and a.id < b.id end)
  for _, claim in ipairs(over) do
    if n == LOST_AT_ONCE then return n, claim.ends end
    n = n + lose(k, claim.id, -1, { category = 'worker_lost', limit = num(k, 'max_suspect') + 2, blob = '' })
  end
  return n, due
end

local SET_BACK = 500000       -- retries moved with a clock that was set back: a second of the server's time
local SET_BACK_PART = 1000

-- The server's clock was set back by about `by`: retries are due that much earlier by it, or they would wait so much
-- longer, and the end of a cancelled run's grace likewise. At most SET_BACK retries, the first ones due; they stay the
-- first ones, so parts of them do as well.
local function set_back(k, by, expiry)
  local grace = num(k, 'terminate_at')
  if grace > 0 then redis.call('HSET', k.h, 'terminate_at', math.max(1, grace - by)) end
  -- a ticket that expires later than any sent now was sent before, and nobody can tell when: it counts as lost
  redis.call('ZREMRANGEBYSCORE', k.t, string.format('(%d', now_ms(k) + expiry), '+inf')
  for at = 0, SET_BACK - 1, SET_BACK_PART do
    local later, moved = redis.call('ZRANGE', k.d, at, at + SET_BACK_PART - 1, 'WITHSCORES'), {}
    if #later == 0 then return end
    for j = 1, #later, 2 do moved[j], moved[j + 1] = tonumber(later[j + 1]) - by, later[j] end
    redis.call('ZADD', k.d, unpack(moved))
  end
end

-- sweep grace_ms known_workers idle_workers ticket_expiry_ms since seen dead_worker...
--   since, seen: from when to when the caller has heard from the server without a break, 0 when it does not say
--   dead_worker: codes of workers known to be dead; their claims expire now
-- -> {state, left, active, expired, delayed, tickets wanted, ms until the next lease ends, -1 for none}
local function sweep(K, A)
  local k = open_keys(K)
  if redis.call('EXISTS', k.h) == 0 then return { 'norun', 0, 0, 0, 0, 0, -1 } end
  local t, last, gap, known, idle = now_ms(k), num(k, 'swept_at'), tonumber(A[1]), tonumber(A[2]), tonumber(A[3])
  redis.call('HSET', k.h, 'swept_at', t, 'known_workers', known)
  local tell, dead = leases_tell(k, t, last, gap, tonumber(A[5]), tonumber(A[6])), {}
  if t < last then set_back(k, last - t, tonumber(A[4])) end
  for j = 7, #A do dead[tonumber(A[j])] = true end
  local expired, due = lose_expired(k, t, dead, not tell and t + num(k, 'lease_ms') or nil)
  for _, s in ipairs(redis.call('ZRANGEBYSCORE', k.d, 0, t, 'LIMIT', 0, 1000)) do
    local r = range_parse(s, k.d)
    redis.call('ZREM', k.d, s)
    add(k, 'delayed', -(r.b - r.a))
    give_back(k, r, 0, false)
  end
  local state = settle(k)
  if state == 'running' or state == 'paused' or state == 'cancelling' then sample(k) end
  local active, left, wanted = redis.call('HLEN', k.c), available(k), 0
  if state == 'running' and left > 0 then
    redis.call('ZREMRANGEBYSCORE', k.t, '-inf', idle > 0 and t + tonumber(A[4]) - LATE_TICKET_MS or t)
    local cap = num(k, 'max_workers')
    local desired = math.max(1, known)
    if cap > 0 then desired = math.min(desired, cap) end
    wanted = math.max(0, math.min(desired, left) - active - redis.call('ZCARD', k.t))
  end
  return { state, left, active, expired, num(k, 'delayed'), wanted, due and math.max(0, due - t) or -1 }
end

-- tickets expiry_ms lacking id... -> number of them that count as outstanding now, until they arrive or expire
--   lacking: 1 counts no more of them than the run lacks. So does a worker that leaves its run for another one. While it
--   is neither on the run nor waiting for it, others may have sent a ticket in its place: counting its own as well, a
--   run would gather tickets, and with them shares of the workers, as long as it goes on
local function tickets(K, A)
  local k = open_keys(K)
  if redis.call('HGET', k.h, 'state') ~= 'running' then return 0 end
  local t, n, room = now_ms(k), 0, #A
  if A[2] == '1' then
    local cap, known = nums(k, 'max_workers', 'known_workers')
    redis.call('ZREMRANGEBYSCORE', k.t, '-inf', t)
    room = math.min(wanted_workers(cap, known), available(k)) - redis.call('HLEN', k.c) - redis.call('ZCARD', k.t)
  end
  for j = 3, #A do
    if room > 0 or redis.call('ZSCORE', k.t, A[j]) then  -- the answer to an earlier call may have been lost
      redis.call('ZADD', k.t, t + tonumber(A[1]), A[j])
      n, room = n + 1, room - 1
    end
  end
  return n
end
