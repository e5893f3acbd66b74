-- Lease the jobs of a queue that nobody has, those first that came first.
local queue, most, lease, worker_lost = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local state = queue == 'retrieval' and 'retrieving' or 'generating'
local waiting, leased = key('waiting', queue), key('leased', queue)

also_when_full()
-- Leases that have ended: back into the line, at the place that they had.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leased, '-inf', whole(now), 'LIMIT', 0, 1000)) do
  redis.call('ZREM', leased, id)
  redis.call('ZADD', waiting, look(id, 'queued')[1], id)
end

local claimed = {}
while #claimed < most do
  local id = redis.call('ZRANGE', waiting, 0, 0)[1]
  if not id then
    break
  end
  redis.call('ZREM', waiting, id)
  local job = look(id, 'deadline', 'announced', 'shown')
  if tonumber(job[1]) > now then -- one past it is found by its deadline
    local told = {}
    if job[2] ~= queue then
      told = {state, '{}'}
    end
    if job[3] == '1' and queue == 'generation' then
      told[#told + 1] = 'restarted'
      told[#told + 1] = worker_lost
    end
    local attempt = redis.call('HINCRBY', key('job', id), 'attempt', 1)
    redis.call('HSET', key('job', id), 'lease', whole(now + lease), 'state', state, 'announced', queue, 'shown', 0)
    redis.call('ZADD', leased, whole(now + lease), id)
    tell(id, attempt, told)
    claimed[#claimed + 1] = redis.call('HGETALL', key('job', id))
  end
end
return claimed
