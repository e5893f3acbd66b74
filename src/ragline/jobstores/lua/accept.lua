-- Orders, eleven words each, that wait together: each becomes a job, or is one already, or finds the queues full.
local WORDS = 11

local function accept(id, principal, namespace, request, fingerprint, idempotency, webhook, deadline, idempotency_ms, most, share)
  if idempotency ~= '' then
    local known = redis.call('GET', key('key', idempotency))
    local its = known and look(known, 'fingerprint')[1]
    if its and its ~= fingerprint then
      return {'other', known}
    elseif its then
      return {'known', redis.call('HGETALL', key('job', known))}
    end
  end
  local refused = full(namespace, tonumber(most), tonumber(share))
  if refused then
    return refused
  end
  local created, due = whole(now), whole(now + deadline)
  redis.call('HSET', key('job', id),
    'id', id, 'principal', principal, 'namespace', namespace, 'request', request, 'fingerprint', fingerprint,
    'webhook', webhook, 'state', 'queued', 'queue', 'retrieval', 'queued', created, 'lease', 0, 'attempt', 0, 'retries', 0,
    'events', 0, 'forgotten', 0, 'announced', '', 'shown', 0, 'created', created, 'deadline', due)
  if idempotency ~= '' then
    redis.call('SET', key('key', idempotency), id, 'PX', idempotency_ms)
  end
  redis.call('ZADD', key('all'), 0, id)
  redis.call('ZADD', key('of', principal), 0, id)
  redis.call('ZADD', key('deadlines'), due, id)
  enter('retrieval', namespace, id)
  tell(id, 0, {'queued', '{}'})
  return {'made', created, due}
end

local said = {}
for n = 2, #ARGV, WORDS do
  said[#said + 1] = accept(unpack(ARGV, n, n + WORDS - 1))
end
return said
