-- Due at once, with the same id and body. whose: '' is everybody.
local id, whose = ARGV[2], ARGV[3]
local principal = redis.call('HGET', key('delivery', id), 'principal')
if not principal or (whose ~= '' and whose ~= principal) then
  return {}
end
redis.call('HSET', key('delivery', id), 'state', 'waiting', 'due', whole(now))
redis.call('ZADD', key('outbox'), whole(now), id)
return redis.call('HGETALL', key('delivery', id))
