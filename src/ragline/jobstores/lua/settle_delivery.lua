-- What became of a try, said by the newest attempt of a delivery that still waits.
local id, attempt, state, after, status, error = unpack(ARGV, 2, 7)
local found = redis.call('HMGET', key('delivery', id), 'attempt', 'state', 'host')
if found[1] ~= attempt or found[2] ~= 'waiting' then
  return 0
end
also_when_full()
redis.call('HSET', key('delivery', id), 'state', state, 'due', whole(now + after), 'status', status, 'error', error)
send(found[3], id, state == 'waiting' and now + after or nil)
return 1
