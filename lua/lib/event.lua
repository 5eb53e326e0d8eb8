-- The order event of a claim. It has the fields `slot` and `key` only if a user may hold several units of the coupon.

-- Appends the order event of one claim in the claims hash. `field` is `<user>` or `<user>\x1f<slot>`; `value` is
-- `<order>` or `<order> <key>`. `call` is redis.call or redis.pcall; the reply is XADD's.
local function send_event(call, stream, coupon, field, value)
  local user, slot = string.match(field, '^([^\31]*)\31?(.*)$')
  local order, key = string.match(value, '^([^ ]*) ?(.*)$')
  local event = { 'order', order, 'coupon', coupon, 'user', user }
  if slot ~= '' or key ~= '' then
    event[7], event[8] = 'slot', slot ~= '' and slot or '1'
  end
  if key ~= '' then
    event[9], event[10] = 'key', key
  end
  return call('XADD', stream, 'NOMKSTREAM', '*', unpack(event))
end
