-- Lease the deliveries that are due.
local most, lease = tonumber(ARGV[2]), tonumber(ARGV[3])
also_when_full()
local claimed = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('outbox'), '-inf', whole(now), 'LIMIT', 0, most)) do
  redis.call('HINCRBY', key('delivery', id), 'attempt', 1)
  redis.call('HSET', key('delivery', id), 'due', whole(now + lease))
  redis.call('ZADD', key('outbox'), whole(now + lease), id)
  claimed[#claimed + 1] = redis.call('HGETALL', key('delivery', id))
end
return claimed
