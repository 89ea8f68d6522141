-- Splits ranges in two halves by item count; each half must be claimed alone.
local function give_back_halves(k, ranges, n)
  local half, pos, right, left = math.floor(n / 2), 0, {}, {}
  for _, r in ipairs(ranges) do
    local cut = math.min(math.max(half - pos, 0), r.b - r.a)
    left[#left + 1] = { a = r.a, b = r.a + cut, att = r.att, sus = r.sus, solo = 1 }
    right[#right + 1] = { a = r.a + cut, b = r.b, att = r.att, sus = r.sus, solo = 1 }
    pos = pos + r.b - r.a
  end
  give_all_back(k, right)
  give_all_back(k, left)
end

local KINDS = { dead = true, retry = true, again = true }

-- The failures of a commit's arguments, nil when one is not as it should be.
local function parse_failures(A, nfail, from, upto)
  local failed, previous = {}, from - 1
  for j = 0, nfail - 1 do
    local at = 12 + 5 * j
    local pos, kind, delay, category = tonumber(A[at]), A[at + 1], tonumber(A[at + 2]), A[at + 3]
    if not pos or pos <= previous or pos >= upto or not KINDS[kind] or not delay or not CODES[category] then return nil end
    previous = pos
    failed[j + 1] = { pos = pos, kind = kind, delay = delay, category = category, blob = A[at + 4] }
  end
  return failed
end

-- Buries the failed items of offsets [from, upto) of a claim or gives them back, and releases the pages of the others.
local function account(k, c, from, upto, failed, release)
  local base, at = 0, 1
  for _, r in ipairs(c.ranges) do
    local n = r.b - r.a
    local low, high = math.max(from, base), math.min(upto, base + n)
    while failed[at] and failed[at].pos < base + n do
      local index, g = r.a + failed[at].pos - base, failed[at]
      if release then ended(k, index, index + 1, -1) end
      if g.kind == 'dead' then
        bury(k, index, g.blob)
        c.dead = c.dead + 1
      else
        local charge = g.kind == 'retry' and 1 or 0
        add(k, 'retried', charge)
        c.retried = c.retried + charge
        give_back(k, { a = index, b = index + 1, att = r.att + charge, sus = r.sus, solo = 0 }, g.delay)
      end
      at = at + 1
    end
    if release and low < high then ended(k, r.a + low - base, r.a + high - base, 1) end
    base = base + n
  end
end

-- Writes what a commit has to say of the head.
local function say_now(k, head, said)
  redis.call('HSET', k.h, 'claimed', head.claimed, unpack(said))
  head.stored_claimed = head.claimed
end

-- The claim that a commit asks for. What the commit left to it is written also where there is none, or none can be read.
local function claim_next(k, A, i, head, before)
  local fine, answer, state = pcall(do_claim, k, A, i, head, before)
  if head.unsaid then say_now(k, head, head.unsaid) end
  if not fine then error(answer, 0) end
  return answer, state
end

-- commit id from upto last split item_s row output pause unless_ok nfail [position kind delay_ms category blob]*
--   [claim arguments]
--   pause: reason to pause the run for, empty for none; with unless_ok 1 only where no item has ended well
-- -> {'ok' | 'stale', state, left, {claim answer} | nil}
local function commit(K, A)
  local k = open_keys(K)
  local id, from, upto, last, split = A[1], A[2] + 0, A[3] + 0, A[4] == '1', A[5] == '1'
  local nfail = tonumber(A[11])
  local next_claim = 12 + 5 * nfail
  local stored = redis.call('HGET', k.c, id)
  local answer, head, before = 'stale', read_head(k), nil
  if not head then return { 'stale', 'norun', 0 } end
  if not stored then
    local score = redis.call('ZSCORE', k.z, id)
    if score and tonumber(score) % 2 == 1 then answer = 'ok' end
  else
    local c = claim_parse(k, stored)
    if from == c.off and upto >= from and upto <= c.total then
      local failed = parse_failures(A, nfail, from, upto)
      if not failed then return redis.error_reply('ERR commit: bad failure list') end
      local good = upto - from - nfail
      local row = last and A[7] ~= ''
      if row then head.rows = head.rows + 1 end
      -- everything is checked; writes from here on
      if last then close_id(k, id, 1, row and head.rows) end
      account(k, c, from, upto, failed, head.release == 1)
      head.claimed = head.claimed - (upto - from)
      local said = { 'ok', head.ok + good, 'rows', head.rows }
      if A[6] ~= '' then
        head.item_s = A[6]
        say(said, 'item_s', A[6])
      end
      -- what is given back, counted as failed or pauses the run changes the head
      local changes = nfail > 0 or upto < c.total or head.breaker > 0 or A[9] ~= ''
      if A[next_claim] and last and not changes then head.unsaid = said else say_now(k, head, said) end
      count_errors(k, upto - from, failed, head.breaker)
      if A[9] ~= '' and (A[10] ~= '1' or head.ok + good == 0) then pause(k, A[9]) end
      c.ok = c.ok + good
      if A[8] ~= '' then redis.call('RPUSH', k.o, A[8]) end
      c.off = upto
      if row then row_append(k, head.rows, A[7]) end
      if last then
        local rest = ranges_from(c, c.off)
        close_claim(k, id, c)
        if split and c.total - c.off > 1 then give_back_halves(k, rest, c.total - c.off)
        else give_all_back(k, rest) end
      else
        c.lease = now_ms(k) + head.lease_ms
        claim_store(k, id, c)
      end
      answer, before = 'ok', last and c or nil
      if changes then head = nil end
    elseif upto <= c.off and not last then
      answer = 'ok'
    end
  end
  local nxt, state = nil, nil
  if A[next_claim] then nxt, state = claim_next(k, A, next_claim, head or read_head(k), before) end
  if state then return { answer, state, nxt[4], nxt } end
  state = redis.call('HGET', k.h, 'state')
  if redis.call('HLEN', k.c) == 0 then state = settle(k) end
  return { answer, state, available(k), nxt }
end
