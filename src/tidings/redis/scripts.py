"""What the server does at once: each of these runs as a whole, and checks first whose the part is.

The hash of a group has, for part p: `o:p` the member that has it, or nothing; `d:p` the position up to which all is
done; `l:p` the last entry that was lent; `e:p` how many entries of the stream lie up to `d:p`; `k:p` for each death of
a member the last entry that it had been lent. And `m:NAME` for each member: a count, and the server's milliseconds.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """A script and the name by which the server knows it."""

    source: str
    sha: str


def _script(source: str) -> Script:
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


ENDS = """
local function ends(stream)
  local told = redis.pcall('XINFO', 'STREAM', stream)
  if told.err then
    if string.find(told.err, 'no such key') then return '0-0', 0, 0 end
    error(told.err)
  end
  local found = {}
  for i = 1, #told, 2 do found[told[i]] = told[i + 1] end
  return found['last-generated-id'], found['entries-added'], found['length']
end
"""
LESS = """
local function less(a, b)
  local am, as = string.match(a, '(%d+)-(%d+)')
  local bm, bs = string.match(b, '(%d+)-(%d+)')
  am, bm = tonumber(am), tonumber(bm)
  if am ~= bm then return am < bm end
  return tonumber(as) < tonumber(bs)
end
"""
RING = """
local function ring(state, bell)
  redis.call('HINCRBY', state, 'bell', 1)
  redis.call('XADD', bell, 'MAXLEN', 1, '*', 'rung', 1)
end
"""
START = (
    ENDS
    + """
local function start(stream, told)
  if told ~= 'latest' and told ~= 'earliest' then
    local id, count = string.match(told, '(%S+) (%d+)')
    return id, tonumber(count)
  end
  local last, added, length = ends(stream)
  if told == 'latest' then return last, added end
  return '0-0', added - length
end
"""
)

DECLARE = _script(
    START
    + """
local parts = redis.call('HGET', KEYS[1], 'parts')
if not parts then
  redis.call('HSET', KEYS[1], 'parts', ARGV[1])
  parts = ARGV[1]
end
if parts ~= ARGV[1] or ARGV[2] == '' or redis.call('EXISTS', KEYS[3]) == 1 then return tonumber(parts) end
redis.call('SADD', KEYS[2], ARGV[2])
for p = 0, tonumber(parts) - 1 do
  local id, count = start(KEYS[4 + p], ARGV[3 + p])
  redis.call('HSET', KEYS[3], 'o:' .. p, '', 'd:' .. p, id, 'l:' .. p, id, 'e:' .. p, count)
end
return tonumber(parts)
"""
)
"""Keys: topic, groups, group, streams. Arguments: parts, group or '', where to start in each. Returns the parts."""

SEEK = _script(
    START
    + RING
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local parts = #ARGV
for p = 0, parts - 1 do
  local id, count = start(KEYS[3 + p], ARGV[1 + p])
  redis.call('HSET', KEYS[1], 'o:' .. p, '', 'd:' .. p, id, 'l:' .. p, id, 'e:' .. p, count)
  redis.call('HDEL', KEYS[1], 'k:' .. p)
  redis.call('DEL', KEYS[3 + parts + p])
end
ring(KEYS[1], KEYS[2])
return 1
"""
)
"""Keys: group, bell, streams, sets of what is done. Arguments: where to go in each part. Returns 0 where none is."""

RESTORE = _script(
    ENDS
    + """
redis.call('SADD', KEYS[1], ARGV[1])
local restored = 0
for i = 2, #ARGV, 2 do
  local p, id = ARGV[i], ARGV[i + 1]
  if redis.call('HSETNX', KEYS[2], 'd:' .. p, id) == 1 then
    local _, added = ends(KEYS[2 + i / 2])
    local ahead = #redis.call('XRANGE', KEYS[2 + i / 2], '(' .. id, '+', 'COUNT', 10000)
    redis.call('HSET', KEYS[2], 'o:' .. p, '', 'l:' .. p, id, 'e:' .. p, added - ahead)
    restored = restored + 1
  end
end
return restored
"""
)
"""Keys: groups, group, the streams named. Arguments: group, then part and position. Of those the server has lost."""

SIGN = _script(
    RING
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local new = redis.call('HEXISTS', KEYS[1], 'm:' .. ARGV[1]) == 0
redis.call('HSET', KEYS[1], 'm:' .. ARGV[1], ARGV[2] .. ':' .. ms)
for i = 3, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], 'm:' .. ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], 'm:' .. ARGV[i]) end
end
if new then ring(KEYS[1], KEYS[2]) end
return redis.call('HGETALL', KEYS[1])
"""
)
"""Keys: group, bell. Arguments: member, count, then name and sign of the dead. Returns the hash, or nil without one."""

CLAIM = _script(
    """
local claimed = {}
for i = 2, #ARGV, 2 do
  local p, owner = ARGV[i], ARGV[i + 1]
  if redis.call('HGET', KEYS[1], 'o:' .. p) == owner then
    local told = redis.call('HMGET', KEYS[1], 'd:' .. p, 'l:' .. p, 'e:' .. p, 'k:' .. p)
    local done, lent, count, deaths = told[1], told[2], told[3], told[4] or ''
    if owner ~= '' and owner ~= ARGV[1] and lent ~= done then
      if deaths ~= '' then deaths = deaths .. ' ' end
      deaths = deaths .. lent
      redis.call('HSET', KEYS[1], 'k:' .. p, deaths)
    end
    redis.call('HSET', KEYS[1], 'o:' .. p, ARGV[1], 'l:' .. p, done)
    claimed[#claimed + 1] = {tonumber(p), done, tonumber(count), deaths, redis.call('SMEMBERS', KEYS[1 + i / 2])}
  end
end
return claimed
"""
)
"""Keys: group, the sets of what is done. Arguments: member, then part and the owner it is taken from."""

LEND = _script(
    """
local lost = {}
for i = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], 'o:' .. ARGV[i]) == ARGV[1] then
    redis.call('HSET', KEYS[1], 'l:' .. ARGV[i], ARGV[i + 1])
  else
    lost[#lost + 1] = tonumber(ARGV[i])
  end
end
return {redis.call('HGET', KEYS[1], 'bell') or '', lost}
"""
)
"""Keys: group. Arguments: member, then part and last entry. Returns the count of the bell and the lost parts."""

DONE = _script(
    """
local lost, i, set = {}, 2, 2
while i <= #ARGV do
  local p, added, gone = ARGV[i], tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  local first = i + 6
  if redis.call('HGET', KEYS[1], 'o:' .. p) == ARGV[1] then
    redis.call('HSET', KEYS[1], 'd:' .. p, ARGV[i + 1], 'e:' .. p, ARGV[i + 2], 'k:' .. p, ARGV[i + 3])
    for n = first, first + added - 1 do redis.call('SADD', KEYS[set], ARGV[n]) end
    for n = first + added, first + added + gone - 1 do redis.call('SREM', KEYS[set], ARGV[n]) end
  else
    lost[#lost + 1] = tonumber(p)
  end
  i, set = first + added + gone, set + 1
end
return lost
"""
)
"""Keys: group, the sets of what is done. Arguments: member, then part, position, its count, deaths, how many are done
beyond it and how many no longer are, and these. Returns the parts that are lost."""

RELEASE = _script(
    RING
    + """
for i = 3, #ARGV do
  if redis.call('HGET', KEYS[1], 'o:' .. ARGV[i]) == ARGV[1] then
    redis.call('HSET', KEYS[1], 'o:' .. ARGV[i], '', 'l:' .. ARGV[i], redis.call('HGET', KEYS[1], 'd:' .. ARGV[i]))
  end
end
if ARGV[2] == 'leave' then redis.call('HDEL', KEYS[1], 'm:' .. ARGV[1]) end
if redis.call('EXISTS', KEYS[1]) == 1 then ring(KEYS[1], KEYS[2]) end
return 1
"""
)
"""Keys: group, bell. Arguments: member, 'leave' or 'stay', parts. What was out of them is no attempt."""

PUBLISH = _script(
    """
local parts = redis.call('HGET', KEYS[1], 'parts')
if not parts then
  redis.call('HSET', KEYS[1], 'parts', ARGV[1])
elseif parts ~= ARGV[1] then
  return tonumber(parts)
end
if redis.call('EXISTS', KEYS[4]) == 0 then
  if redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('UNLINK', KEYS[3])
    redis.call('RENAME', KEYS[2], KEYS[3])
    redis.call('PEXPIRE', KEYS[3], ARGV[2])
  end
  redis.call('SET', KEYS[4], 1, 'PX', ARGV[2])
end
local before = redis.call('EXISTS', KEYS[3]) == 1
local refused, number, i = {}, 0, 3
while i <= #ARGV do
  local id, last = ARGV[i + 1], i + 2 + ARGV[i + 2]
  if not (before and redis.call('SISMEMBER', KEYS[3], id) == 1) and redis.call('SADD', KEYS[2], id) == 1 then
    local kept = redis.pcall('XADD', KEYS[5 + ARGV[i]], '*', unpack(ARGV, i + 3, last))
    if kept.err then
      redis.call('SREM', KEYS[2], id)
      refused[#refused + 1] = {number, kept.err}
    end
  end
  number, i = number + 1, last + 1
end
return refused
"""
)
"""Keys: topic, three of its ids, streams. Arguments: parts, window in milliseconds, then for each record part, id, how
many words its fields and values are, and these. Returns the parts where they are others, else number and reason of each
record that was not kept."""

LAG = _script(
    ENDS
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local parts, waiting, first = (#KEYS - 1) / 2, 0, {}
for p = 0, parts - 1 do
  local told = redis.call('HMGET', KEYS[1], 'd:' .. p, 'e:' .. p)
  if told[1] then
    local entry = redis.call('XRANGE', KEYS[2 + p], '(' .. told[1], '+', 'COUNT', 1)[1]
    if entry then
      local _, added, length = ends(KEYS[2 + p])
      local ahead = math.min(added - told[2], length)
      waiting = waiting + math.max(ahead, 1) - redis.call('SCARD', KEYS[2 + parts + p])
      local time = ''
      for i = 1, #entry[2], 2 do if entry[2][i] == 'ce_time' then time = entry[2][i + 1] end end
      first[#first + 1] = {entry[1], time}
    end
  end
end
return {waiting, first}
"""
)
"""Keys: group, streams, sets of what is done. Returns how many wait, and id and time of the first of each part."""

LAST = _script(
    ENDS
    + """
local found = {}
for i = 1, #KEYS do
  local last, added = ends(KEYS[i])
  found[i] = {last, added}
end
return found
"""
)
"""Keys: streams. Returns the last id of each, and how many entries it ever got."""

COUNT = _script(
    """
local found = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], ARGV[2], 'COUNT', 1000)
local last = found[#found]
return {#found, last and last[1] or ARGV[2]}
"""
)
"""Keys: stream. Arguments: behind which id, up to which. Returns how many the next are, and the last of them."""

TRIM = _script(
    LESS
    + """
local parts, groups = tonumber(ARGV[2]), #KEYS - 1 - ARGV[2]
if redis.call('SCARD', KEYS[1]) ~= groups then return -1 end
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local oldest = string.format('%.0f-0', math.max(0, ms - ARGV[1]))
local trimmed = 0
for p = 0, parts - 1 do
  local bound = oldest
  for g = 1, groups do
    local done = redis.call('HGET', KEYS[1 + parts + g], 'd:' .. p)
    if done and less(done, bound) then bound = done end
  end
  trimmed = trimmed + redis.call('XTRIM', KEYS[2 + p], 'MINID', '~', bound)
end
return trimmed
"""
)
"""Keys: groups, streams, each group. Arguments: milliseconds to keep, parts. Never takes what a group has not done.
Returns how many entries went, or -1 where there are other groups."""

ALL = (DECLARE, SEEK, RESTORE, SIGN, CLAIM, LEND, DONE, RELEASE, PUBLISH, LAG, LAST, COUNT, TRIM)
