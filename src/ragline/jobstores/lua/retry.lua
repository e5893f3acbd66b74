-- Begin a failed job again.
local id, deadline, most, share = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local state, namespace = unpack(look(id, 'state', 'namespace'))
if not state then
  return {'unknown'}
elseif state ~= 'failed' then
  return {'not', state}
end
local refused = full(namespace, most, share)
if refused then
  table.insert(refused, namespace)
  return refused
end
redis.call('HDEL', key('job', id), 'finished', 'retrieved', 'reason', 'detail', 'next_step', 'answer')
redis.call('HINCRBY', key('job', id), 'attempt', 1)
redis.call('HINCRBY', key('job', id), 'retries', 1)
redis.call('HSET', key('job', id),
  'state', 'queued', 'queue', 'retrieval', 'queued', whole(now), 'lease', 0, 'announced', '', 'shown', 0,
  'created', whole(now), 'deadline', whole(now + deadline))
redis.call('ZREM', key('ended'), id)
redis.call('ZREM', key('telling'), id)
redis.call('ZADD', key('deadlines'), whole(now + deadline), id)
enter('retrieval', namespace, id)
tell(id, 0, {'queued', '{}'})
return {'made', redis.call('HGETALL', key('job', id))}
