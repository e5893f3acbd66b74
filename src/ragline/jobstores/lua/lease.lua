-- Renew or give back: it is due again in so many microseconds.
local id, attempt, after = ARGV[2], ARGV[3], tonumber(ARGV[4])
if not is_mine(id, attempt) then
  return 0
end
also_when_full()
local queue, queued, announced = unpack(look(id, 'queue', 'queued', 'announced'))
redis.call('HSET', key('job', id), 'lease', whole(now + after))
if after > 0 then
  redis.call('ZREM', key('waiting', queue), id)
  redis.call('ZADD', key('leased', queue), whole(now + after), id)
else
  redis.call('ZREM', key('leased', queue), id)
  redis.call('ZADD', key('waiting', queue), queued, id)
end
if announced == 'overdue' then
  redis.call('ZADD', key('deadlines'), whole(now + after), id)
end
return 1
