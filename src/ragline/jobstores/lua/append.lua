-- Events that end nothing. shown: whether tokens stand there then that count; empty: as before.
local id, attempt, shown = ARGV[2], ARGV[3], ARGV[4]
if not is_mine(id, attempt) then
  return 0
end
also_when_full()
if shown ~= '' then
  redis.call('HSET', key('job', id), 'shown', shown)
end
tell(id, attempt, rest(5))
return 1
