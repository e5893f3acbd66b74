-- Due at once, with the same id and body. whose: '' is everybody.
local id, whose = ARGV[2], ARGV[3]
local principal, host, attempt = unpack(redis.call('HMGET', key('delivery', id), 'principal', 'host', 'attempt'))
if not principal or (whose ~= '' and whose ~= principal) then
  return {}
end
redis.call('HSET', key('delivery', id), 'state', 'waiting', 'due', whole(now), 'spent', attempt)
send(host, id, now)
return redis.call('HGETALL', key('delivery', id))
