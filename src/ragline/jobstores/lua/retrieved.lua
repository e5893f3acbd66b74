-- Keep the passages; the job moves to generation, and is due there.
local id, attempt, passages, ttl_ms = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not is_mine(id, attempt) then
  return 0
end
also_when_full()
local queue, namespace = unpack(look(id, 'queue', 'namespace'))
leave(queue, namespace, id)
redis.call('SET', key('passages', id), passages, 'PX', ttl_ms)
redis.call('HSET', key('job', id),
  'state', 'generating', 'queue', 'generation', 'queued', whole(now), 'retrieved', whole(now), 'lease', 0, 'announced', '',
  'shown', 0)
enter('generation', namespace, id)
tell(id, attempt, rest(6))
return 1
