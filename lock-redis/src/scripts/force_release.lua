-- Ends the holds of a key, or the one with this token, whoever owns them, and grants to whoever is next.
--
-- Invariant: the fence stays, so that the next token is above every one that was ended.
--
-- KEYS: lock. ARGV: the key's name, the token ('' for all), for how long the record is kept (ms).
local record = read(ARGV[1])
if not record.known then return 0 end
local head_before = head(record)
local ended, stay = 0, {}
for _, holder in ipairs(record.holders) do
  if ARGV[2] ~= '' and ARGV[2] ~= holder.token then
    stay[#stay + 1] = holder
  else
    -- One that had died or expired before goes too, but was not ended by this.
    if counts(holder) then
      ended = ended + 1
      tell(record, holder.session, 'v ' .. holder.ticket)
    end
    record.changed = true
  end
end
record.holders = stay
settle(record, head_before)
write(record, tonumber(ARGV[3]))
return ended
