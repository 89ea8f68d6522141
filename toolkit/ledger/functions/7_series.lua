-- Series: metric rows of a task that is measured outside of runs, see keys.py. No transition of a run touches them.
--
-- KEYS  1 series  2 flushes  3 sessions  4 rows (segments: rows:0, rows:1, ...)  5 waits (segments)
--   6 series_workers (segments)

local FLUSHES_KEPT = 1024     -- flush ids remembered, so that a repeated call has no second effect
local SESSION_GAP_S = 60      -- a pause longer than this begins another session

-- record flush_id task tags schema segment_rows keep row_bytes at first_at last_at dropped, then for each worker:
--   identity rows waits  -> {row number to come, first row kept}
--   at: 0-based place of the worker's code in a row; keep: rows to keep, at least; dropped: rows that were lost on
--   the way here; waits: a float32 for each row
local function record(K, A)
  local head, flushes, sessions = K[1], K[2], K[3]
  local segment_rows, keep, size, at = tonumber(A[5]), tonumber(A[6]), tonumber(A[7]), tonumber(A[8])
  local first_at, last_at, dropped = tonumber(A[9]), tonumber(A[10]), tonumber(A[11])
  local v = redis.call('HMGET', head, 'rows', 'first', 'last_at')
  local rows, first, before = tonumber(v[1] or 0), tonumber(v[2] or 0), tonumber(v[3] or 0)
  if not rows or not first or not before then
    error('CORRUPT <' .. head .. '> <rows, first or last_at>')
  end
  if redis.call('ZSCORE', flushes, A[1]) then return { rows, first } end
  for j = 12, #A, 3 do
    if #A[j + 1] % size ~= 0 or #A[j + 1] / size ~= #A[j + 2] / 4 then error('record: rows or waits are cut') end
  end
  local time = redis.call('TIME')
  redis.call('HSET', head, 'task', A[2], 'tags', A[3], 'schema', A[4])
  redis.call('ZADD', flushes, time[1], A[1])
  redis.call('ZREMRANGEBYRANK', flushes, 0, -FLUSHES_KEPT - 1)
  if dropped > 0 then redis.call('HINCRBY', head, 'dropped', A[11]) end

  if #A >= 12 and (rows == 0 or first_at - before > SESSION_GAP_S) then
    redis.call('RPUSH', sessions, string.format('%d', rows))
  end
  for j = 12, #A, 3 do
    local identity, packed, waits = A[j], A[j + 1], A[j + 2]
    local n, done = #packed / size, 0
    while done < n do
      local segment = string.format(':%d', math.floor(rows / segment_rows))
      local here = rows % segment_rows
      if here == 0 then redis.call('DEL', K[4] .. segment, K[5] .. segment, K[6] .. segment) end
      local code = tonumber(redis.call('HGET', K[6] .. segment, identity))
      if not code then
        code = redis.call('HLEN', K[6] .. segment)
        redis.call('HSET', K[6] .. segment, identity, code)
      end
      local mark, part = struct.pack('<I2', code), {}
      local some = math.min(n - done, segment_rows - here)
      for i = done, done + some - 1 do
        local row = string.sub(packed, i * size + 1, (i + 1) * size)
        part[#part + 1] = string.sub(row, 1, at) .. mark .. string.sub(row, at + 3)
      end
      redis.call('APPEND', K[4] .. segment, table.concat(part))
      redis.call('APPEND', K[5] .. segment, string.sub(waits, done * 4 + 1, (done + some) * 4))
      rows, done = rows + some, done + some
    end
  end

  local capped = 0
  while rows - first - segment_rows >= keep do
    local segment = string.format(':%d', math.floor(first / segment_rows))
    redis.call('DEL', K[4] .. segment, K[5] .. segment, K[6] .. segment)
    first, capped = first + segment_rows, capped + segment_rows
  end
  if capped > 0 then
    redis.call('HINCRBY', head, 'capped', capped)
    -- The oldest session kept is the one that the first row belongs to.
    local second = redis.call('LRANGE', sessions, 1, 1)[1]
    while second and (tonumber(second) or 0) <= first do
      redis.call('LPOP', sessions)
      second = redis.call('LRANGE', sessions, 1, 1)[1]
    end
  end
  redis.call('HSET', head, 'rows', string.format('%d', rows), 'first', string.format('%d', first),
    'last_at', string.format('%.6f', math.max(before, last_at)))
  return { rows, first }
end

offer('record', record)
