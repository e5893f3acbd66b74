-- A duty is one holder's until its lease ends.
local duty, holder, lease_ms = ARGV[2], ARGV[3], ARGV[4]
local held = redis.call('GET', key('duty', duty))
if held and held ~= holder then
  return 0
end
redis.call('SET', key('duty', duty), holder, 'PX', lease_ms)
return 1
