-- End a job, by the attempt that has it, or, with an empty one, as a newer attempt: a cancellation. An optional word is '' or '=word'.
local id, attempt, state, answer, reason, detail, next_step, webhook = unpack(ARGV, 2, 9)
local queue, newest, principal, namespace, url, retries =
  unpack(look(id, 'queue', 'attempt', 'principal', 'namespace', 'webhook', 'retries'))
if not queue then
  return {'unknown'}
elseif queue == '' or (attempt ~= '' and attempt ~= newest) then
  return {'not', redis.call('HGETALL', key('job', id))}
elseif attempt == '' then
  attempt = tostring(newest + 1)
end

also_when_full()
redis.call('DEL', key('passages', id))
leave(queue, namespace, id)
redis.call('ZREM', key('deadlines'), id)
redis.call('ZADD', key('ended'), whole(now), id)
redis.call('ZADD', key('telling'), whole(now), id)
redis.call('HSET', key('job', id),
  'state', state, 'queue', '', 'attempt', attempt, 'lease', 0, 'finished', whole(now), 'detail', detail, 'next_step', next_step)
if reason ~= '' then
  redis.call('HSET', key('job', id), 'reason', reason:sub(2))
end
if answer ~= '' then
  redis.call('HSET', key('job', id), 'answer', answer:sub(2))
end
if url ~= '' and webhook ~= '' then
  local delivery = 'msg_' .. id .. (retries ~= '0' and '_' .. retries or '') -- as types.delivery_id
  local host = string.lower(string.match(url, '^%a+://([^/?#]*)') or '') -- as types.delivery_host
  redis.call('HSET', key('delivery', delivery),
    'id', delivery, 'job', id, 'principal', principal, 'url', url, 'host', host, 'body', webhook:sub(2), 'attempt', 0, 'spent', 0,
    'state', 'waiting', 'created', whole(now), 'due', whole(now), 'status', '', 'error', '')
  send(host, delivery, now)
  redis.call('ZADD', key('deliveries'), whole(now), delivery)
  redis.call('ZADD', key('deliveries_of', principal), whole(now), delivery)
end
tell(id, attempt, rest(10))
return {'ended', redis.call('HGETALL', key('job', id))}
