//! What Redis does in one step. Each script answers with the log's state, as `State` reads it.

use std::sync::LazyLock;

use ::redis::Script;

/// KEYS: log, object. `state` returns: phase, epoch, end, ends of earlier epochs.
const STATE: &str = r"
local SEALED, DELETED = '18446744073709551614', '18446744073709551615'
local log, object = KEYS[1], KEYS[2]
local function field(values, name)
  for i = 1, #values, 2 do
    if values[i] == name then return values[i + 1] end
  end
end
local function state()
  local top = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if not top then
    local kept = redis.call('HMGET', object, 's', 'n', 'a')
    if kept[1] then return {'kept', kept[1], kept[2], kept[3]} end
    return {'missing'}
  end
  local epoch, number = string.match(top[1], '^(%d+)-(%d+)$')
  if epoch == DELETED then return {'deleted'} end
  if epoch == SEALED then
    return {'sealed', field(top[2], 's'), number, field(top[2], 'a')}
  end
  local ends = ''
  if epoch ~= '1' then
    local adoption = redis.call('XRANGE', log, epoch .. '-0', epoch .. '-0')[1]
    ends = adoption and field(adoption[2], 'a') or ''
    if number == '0' then number = string.match(ends, '(%d+)$') end
  end
  return {'running', epoch, number, ends}
end
local now = state()
";

fn script(body: &str) -> Script {
    Script::new(&format!("{STATE}{body}"))
}

/// ARGV: header, milliseconds that the log is kept.
pub(super) static CREATE: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if now[1] ~= 'missing' then return now end
redis.call('XADD', log, '1-0', 'h1', ARGV[1])
redis.call('PEXPIRE', log, ARGV[2])
return {'done', '1', '0', ''}
",
    )
});

/// ARGV: epoch, end that the log must have, id, records, milliseconds that the log is kept.
pub(super) static APPEND: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if now[1] ~= 'running' or now[2] ~= ARGV[1] or now[3] ~= ARGV[2] then return now end
redis.call('XADD', log, ARGV[3], 'r', ARGV[4])
redis.call('PEXPIRE', log, ARGV[5])
return {'done', now[2], now[3], now[4]}
",
    )
});

/// ARGV: epoch, end that the log must have, its new end, records, milliseconds that the log is
/// kept, milliseconds that the object is kept, and the object if there is one.
pub(super) static SEAL: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if now[1] ~= 'running' or now[2] ~= ARGV[1] or now[3] ~= ARGV[2] then return now end
redis.call('XADD', log, SEALED .. '-' .. ARGV[3], 's', now[2], 'a', now[4], 'r', ARGV[4])
redis.call('PEXPIRE', log, ARGV[5])
if ARGV[7] then
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  redis.call('HSET', object, 'h', first[2][2], 's', now[2], 'n', ARGV[3], 'a', now[4],
    'o', ARGV[7])
  redis.call('PEXPIRE', object, ARGV[6])
end
return {'done', now[2], ARGV[3], now[4]}
",
    )
});

/// ARGV: milliseconds that the log is kept.
pub(super) static ADOPT: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if now[1] ~= 'running' then return now end
local epoch = string.format('%.0f', tonumber(now[2]) + 1)
local ends = now[4] == '' and now[3] or now[4] .. ',' .. now[3]
redis.call('XADD', log, epoch .. '-0', 'a', ends)
redis.call('PEXPIRE', log, ARGV[1])
return {'done', epoch, now[3], ends}
",
    )
});

/// Answers with the state, and the name and the bytes of the header.
pub(super) static OPEN: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if now[1] == 'running' or now[1] == 'sealed' then
  return {now, redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1][2]}
end
if now[1] == 'kept' then return {now, {'h1', redis.call('HGET', object, 'h')}} end
return {now, {}}
",
    )
});

/// ARGV: least id, bytes. Answers with the state, and the records of entries.
pub(super) static READ: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
local found, size, from = {}, 0, ARGV[1]
if now[1] ~= 'running' and now[1] ~= 'sealed' then return {now, found} end
local limit = tonumber(ARGV[2])
while size <= limit do
  local entries = redis.call('XRANGE', log, from, '+', 'COUNT', 16)
  for _, entry in ipairs(entries) do
    local records = field(entry[2], 'r')
    if records and size <= limit then
      found[#found + 1] = records
      size = size + #records
    end
    from = '(' .. entry[1]
  end
  if #entries < 16 then break end
end
return {now, found}
",
    )
});

/// Answers with the state, and the object if there is one.
pub(super) static OBJECT: LazyLock<Script> =
    LazyLock::new(|| script("return {now, redis.call('HGET', object, 'o')}"));

/// ARGV: milliseconds that the deletion is remembered.
pub(super) static DELETE: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
redis.call('UNLINK', log, object)
redis.call('XADD', log, DELETED .. '-0', 'd', '')
redis.call('PEXPIRE', log, ARGV[1])
return {'deleted'}
",
    )
});
