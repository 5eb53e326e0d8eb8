-- The sum of a coupon: stock + held units = total.

-- A whole number, or nil. Accepts only the spelling that HINCRBY accepts: otherwise HINCRBY would fail after the first
-- write. `text + 0` is cheaper than tonumber(text).
local function whole(text)
  return text and #text <= 15 and (text == '0' or text:find('^-?[1-9]%d*$')) and text + 0 or nil
end

-- `stock` and `total` are nil if they are not whole numbers.
local function adds_up(stock, held, total) return stock and total and stock + held == total end
