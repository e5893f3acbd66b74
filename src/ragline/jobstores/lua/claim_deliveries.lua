-- Lease deliveries that are due, to each host at most so many, less those that are in flight: host, number, host, number …
local most, of_host, lease = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local flying = {}
for n = 5, #ARGV, 2 do
  flying[ARGV[n]] = tonumber(ARGV[n + 1])
end
also_when_full()
local claimed = {}
for _, host in ipairs(redis.call('ZRANGEBYSCORE', key('outbox'), '-inf', whole(now))) do
  local room = math.min(of_host - (flying[host] or 0), most - #claimed)
  if room > 0 then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('outbox', host), '-inf', whole(now), 'LIMIT', 0, room)) do
      redis.call('HINCRBY', key('delivery', id), 'attempt', 1)
      redis.call('HSET', key('delivery', id), 'due', whole(now + lease))
      send(host, id, now + lease)
      claimed[#claimed + 1] = redis.call('HGETALL', key('delivery', id))
    end
  elseif #claimed >= most then
    break
  end
end
return claimed
