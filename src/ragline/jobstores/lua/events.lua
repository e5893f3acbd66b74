-- How many of a job's first events are forgotten (nil: there is no such job), those above an id, and whether there are any at all.
local id, after, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local forgotten = look(id, 'forgotten')[1]
if not forgotten then
  return {false, {}, 0}
end
local start = math.max(after - forgotten, 0)
local lines = redis.call('LRANGE', key('events', id), start, start + most - 1)
return {forgotten, lines, redis.call('EXISTS', key('events', id))}
