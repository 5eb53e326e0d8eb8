-- The sum of a coupon: stock + held units = total.

-- A whole number in its one spelling, or nil: HINCRBY would refuse any other after the first write.
local function whole(text)
  return text and #text <= 15 and (text == '0' or text:find('^-?[1-9]%d*$')) and tonumber(text) or nil
end

-- `stock` and `total` are nil where they are not whole numbers.
local function adds_up(stock, held, total) return stock and total and stock + held == total end
