-- An order becomes a job, or is one already, or finds the queues full.
local id, principal, namespace, request, fingerprint, idempotency, webhook = unpack(ARGV, 2, 8)
local deadline, idempotency_ms, most, share = tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12])

if idempotency ~= '' then
  local known = redis.call('GET', key('key', idempotency))
  local its = known and look(known, 'fingerprint')[1]
  if its and its ~= fingerprint then
    return {'other', known}
  elseif its then
    return {'known', redis.call('HGETALL', key('job', known))}
  end
end
local refused = full(namespace, most, share)
if refused then
  return refused
end
redis.call('HSET', key('job', id),
  'id', id, 'principal', principal, 'namespace', namespace, 'request', request, 'fingerprint', fingerprint,
  'webhook', webhook, 'state', 'queued', 'queue', 'retrieval', 'queued', whole(now), 'lease', 0, 'attempt', 0, 'retries', 0,
  'events', 0, 'forgotten', 0, 'announced', '', 'shown', 0, 'created', whole(now), 'deadline', whole(now + deadline))
if idempotency ~= '' then
  redis.call('SET', key('key', idempotency), id, 'PX', idempotency_ms)
end
redis.call('ZADD', key('all'), 0, id)
redis.call('ZADD', key('of', principal), 0, id)
redis.call('ZADD', key('deadlines'), whole(now + deadline), id)
enter('retrieval', namespace, id)
tell(id, 0, {'queued', '{}'})
return {'made', redis.call('HGETALL', key('job', id))}
