-- Of a clock that went back: leases that nobody can have been given end now, and jobs that nobody can have made yet were made now.
local beyond = tonumber(ARGV[2])
for _, queue in ipairs({'retrieval', 'generation'}) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('leased', queue), whole(now + beyond), '+inf')) do
    redis.call('HSET', key('job', id), 'lease', 0)
    redis.call('ZREM', key('leased', queue), id)
    redis.call('ZADD', key('waiting', queue), look(id, 'queued')[1], id)
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('waiting', queue), whole(now + beyond), '+inf')) do
    local created, deadline = unpack(look(id, 'created', 'deadline'))
    deadline = whole(now + deadline - created)
    redis.call('HSET', key('job', id), 'created', whole(now), 'queued', whole(now), 'deadline', deadline)
    redis.call('ZADD', key('waiting', queue), whole(now), id)
    redis.call('ZADD', key('deadlines'), deadline, id)
  end
end
return 0
