-- Lease the jobs past their deadline, whoever has them. Until that lease ends they stand in the line of deadlines at its end.
local most, lease = tonumber(ARGV[2]), tonumber(ARGV[3])

also_when_full()
local claimed = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', whole(now), 'LIMIT', 0, most)) do
  local queue = look(id, 'queue')[1]
  redis.call('HINCRBY', key('job', id), 'attempt', 1)
  redis.call('HSET', key('job', id), 'lease', whole(now + lease), 'announced', 'overdue', 'shown', 0)
  redis.call('ZREM', key('waiting', queue), id)
  redis.call('ZADD', key('leased', queue), whole(now + lease), id)
  redis.call('ZADD', key('deadlines'), whole(now + lease), id)
  claimed[#claimed + 1] = redis.call('HGETALL', key('job', id))
end
return claimed
