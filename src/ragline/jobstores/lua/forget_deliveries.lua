-- Forget deliveries so old that do not wait; those that do are passed over. Returns how many were seen, and forgotten.
local older, skip, most = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local found = redis.call('ZRANGEBYSCORE', key('deliveries'), '-inf', whole(now - older), 'LIMIT', skip, most)
local gone = 0
for _, id in ipairs(found) do
  local state, principal = unpack(redis.call('HMGET', key('delivery', id), 'state', 'principal'))
  if state ~= 'waiting' then
    redis.call('ZREM', key('deliveries'), id)
    redis.call('ZREM', key('deliveries_of', principal), id)
    redis.call('DEL', key('delivery', id))
    gone = gone + 1
  end
end
return {#found, gone}
