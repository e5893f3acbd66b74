-- What became of a try, said by the newest attempt of a delivery that still waits.
local id, attempt, state, after, status, error = unpack(ARGV, 2, 7)
local found = redis.call('HMGET', key('delivery', id), 'attempt', 'state')
if found[1] ~= attempt or found[2] ~= 'waiting' then
  return 0
end
also_when_full()
redis.call('HSET', key('delivery', id), 'state', state, 'due', whole(now + after), 'status', status, 'error', error)
if state == 'waiting' then
  redis.call('ZADD', key('outbox'), whole(now + after), id)
else
  redis.call('ZREM', key('outbox'), id)
end
return 1
