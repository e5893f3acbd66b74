-- What all scripts share; it stands before each of them. ARGV[1] is the prefix of our keys, the script's own words begin at ARGV[2].
-- Times are whole microseconds since 1970 by this server's clock: a double holds them exactly until the year 2255.
-- A script is one commit. Keys and fields: docs/engines/redis.md.

local prefix = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local MINUTE = 60000000

local function whole(number)
  return string.format('%.0f', number)
end

local function key(...)
  return prefix .. ':' .. table.concat({...}, ':')
end

local function look(id, ...)
  return redis.call('HMGET', key('job', id), ...)
end

-- A server that is full takes a script to its end once its first write was one that needs no memory. What gives back, claims or
-- ends begins with this one, so that accepted jobs end; what is new does not, and is refused whole.
local function also_when_full()
  redis.call('DEL', key('nothing'))
end

-- Whether the job is open and this its newest attempt.
local function is_mine(id, attempt)
  local found = look(id, 'attempt', 'queue')
  return found[1] == attempt and found[2] ~= '' and found[2]
end

local function count(queue, namespace, by)
  for _, field in ipairs({queue, queue .. ':' .. namespace}) do
    if redis.call('HINCRBY', key('counts'), field, by) == 0 then
      redis.call('HDEL', key('counts'), field)
    end
  end
end

-- It leaves its queue. The last minute of each is kept: by it a full one says when there will be a place.
local function leave(queue, namespace, id)
  count(queue, namespace, -1)
  redis.call('ZREM', key('waiting', queue), id)
  redis.call('ZREM', key('leased', queue), id)
  for _, name in ipairs({key('left', queue), key('left', queue, namespace)}) do
    redis.call('ZADD', name, whole(now), id)
    redis.call('ZREMRANGEBYSCORE', name, '-inf', whole(now - MINUTE))
    redis.call('PEXPIRE', name, 60000)
  end
end

local function enter(queue, namespace, id)
  count(queue, namespace, 1)
  redis.call('ZADD', key('waiting', queue), whole(now), id)
end

-- Nil: there is room for one more of the namespace in both queues. Else which is full, of whom, how many too many, and how many
-- have left it in the last minute.
local function full(namespace, most, share)
  for _, queue in ipairs({'retrieval', 'generation'}) do
    local all = tonumber(redis.call('HGET', key('counts'), queue) or 0)
    local own = tonumber(redis.call('HGET', key('counts'), queue .. ':' .. namespace) or 0)
    if all >= most then
      return {'full', queue, all, all - most + 1, redis.call('ZCOUNT', key('left', queue), whole(now - MINUTE), '+inf')}
    elseif own >= share then
      local left = redis.call('ZCOUNT', key('left', queue, namespace), whole(now - MINUTE), '+inf')
      return {'share', queue, own, own - share + 1, left}
    end
  end
end

-- Events are a list, so that their places are their ids. events: name, data, name, data …
local function tell(id, attempt, events)
  for n = 1, #events, 2 do
    redis.call('RPUSH', key('events', id), table.concat({events[n], attempt, whole(now), events[n + 1]}, '\n'))
  end
  if #events > 0 then
    redis.call('HINCRBY', key('job', id), 'events', #events / 2)
    redis.call('PUBLISH', key('told'), id)
  end
end

-- A delivery is due at that time; nil: never again. Each host has a line of its own, and stands in `outbox` by its oldest.
local function send(host, delivery, at)
  if at then
    redis.call('ZADD', key('outbox', host), whole(at), delivery)
  else
    redis.call('ZREM', key('outbox', host), delivery)
  end
  local oldest = redis.call('ZRANGE', key('outbox', host), 0, 0, 'WITHSCORES')
  if oldest[1] then
    redis.call('ZADD', key('outbox'), oldest[2], host)
  else
    redis.call('ZREM', key('outbox'), host)
  end
end

-- The words from the n-th on.
local function rest(n)
  local found = {}
  for m = n, #ARGV do
    found[#found + 1] = ARGV[m]
  end
  return found
end
