-- Runs whose items have weights. The field weight_size of the head tells them: the weight that a batch takes, 0 for a size
-- that adapts. weight_left is the weight that nobody holds, weight_last the latest batch's size, weight_s the latest
-- seconds of a unit. Items are counted as in other runs; what differs:
--
--   Field w<start> of pages: the running sum of the weights of a page's items, 64-bit floats.
--   No item waits behind the cursor: append puts a page among the ready ranges at once, cut so that heavy items are
--     ranges of their own. No range reaches over the end of a page.
--   The ready ranges are a sorted set: single items by weight, the heaviest first (longest processing time first, Graham,
--     SIAM J. Appl. Math. 17, 1969), then the others by index. So what is given back comes where it belongs.
--   A claim has size, limit and weight before its ranges: the size of a batch, what tapering left of it, what was taken.

-- Weight of the first `n` items of a page with the running sums `sums`.
local function sum_to(sums, n)
  return n > 0 and struct.unpack('<d', sums, 8 * n - 7) or 0
end

-- The page of a range -> its first index, the running sums of its weights.
local function sums_of(k, r)
  local start = page_starts(k, r.a, r.b)[1]
  k.sums = k.sums or {}
  local sums = k.sums[start] or redis.call('HGET', k.p, 'w' .. start)
  if not sums or #sums < 8 * (r.b - start) then corrupt(k.p .. ', field w' .. start, sums and 'too short' or 'missing') end
  k.sums[start] = sums
  return tonumber(start), sums
end

function weight_of(k, r)
  local start, sums = sums_of(k, r)
  return sum_to(sums, r.b - start) - sum_to(sums, r.a - start)
end

-- How many items from the start of a range weigh at most `room`, and their weight; at least one where `must`.
local function fit(k, r, room, must)
  local start, sums = sums_of(k, r)
  local base = sum_to(sums, r.a - start)
  local low, high = must and 1 or 0, r.b - r.a  -- so many fit; the answer is at most `high`
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if sum_to(sums, r.a - start + middle) - base <= room then low = middle else high = middle - 1 end
  end
  return low, sum_to(sums, r.a - start + low) - base
end

-- The ranges of a new page of `n` items from index `a` on: those at the offsets `alone` (32 bits each, ascending) by
-- themselves, the others between them. nil when offsets or running sums are not as they should be.
local function cut_page(a, n, sums, alone)
  if #sums ~= 8 * n or #alone % 4 ~= 0 then return nil end
  local total = sum_to(sums, n)
  if not (total > 0 and total < math.huge) then return nil end
  local out, at = {}, 0
  local function cut(upto)
    if upto > at then out[#out + 1] = { a = a + at, b = a + upto, att = 0, sus = 0, solo = 0 } end
    at = upto
  end
  for pos = 1, #alone, 4 do
    local offset = struct.unpack('<I4', alone, pos)
    if offset < at or offset >= n then return nil end
    cut(offset)
    cut(offset + 1)
  end
  cut(n)
  return out
end
