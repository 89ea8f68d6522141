-- What lies beside the runs. One key each, which is KEYS[1]. Small and bounded, so a full server takes it too: what is not
-- seen to live gets no tickets, and where no sweeper is elected nothing ends.

-- report name record -> 1
--   KEYS tk:nodes. A node's own record.
local function report(K, A)
  redis.call('HSET', K[1], A[1], A[2])
  return 1
end

-- elect name lease_ms -> 1 | 0
--   KEYS tk:sweeper:P. Whether `name` is the sweeper for so long; it stays the one as long as it calls in time.
--   A lease that ends later than any does that is given now is of a clock that was set back since: it holds nobody off, or
--   a sweeper that died then would have no follower for as long as the step.
local function elect(K, A)
  local holder = redis.call('GET', K[1])
  if holder and holder ~= A[1] and redis.call('PTTL', K[1]) <= tonumber(A[2]) then return 0 end
  redis.call('SET', K[1], A[1], 'PX', A[2])
  return 1
end

offer('report', report, { 'allow-oom' })
offer('elect', elect, { 'allow-oom' })
