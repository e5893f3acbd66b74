-- Forget, of jobs that ended so long ago: 'events', what they told; 'jobs', all of them. Returns how many.
local what, older, most = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local line = what == 'events' and 'telling' or 'ended'
local found = redis.call('ZRANGEBYSCORE', key(line), '-inf', whole(now - older), 'LIMIT', 0, most)
for _, id in ipairs(found) do
  redis.call('DEL', key('events', id))
  redis.call('ZREM', key('telling'), id)
  if what == 'events' then
    redis.call('HSET', key('job', id), 'forgotten', look(id, 'events')[1])
  else
    redis.call('ZREM', key('ended'), id)
    redis.call('ZREM', key('all'), id)
    redis.call('ZREM', key('of', look(id, 'principal')[1]), id)
    redis.call('DEL', key('job', id), key('passages', id))
  end
end
return #found
