// A faulty proxy before the gateway: it cuts, stalls and refuses connections.
import net from 'node:net';

/** Returns a seeded random number generator (0 to 1). */
export function dice(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Starts a TCP proxy before `target`.
 *
 * `cuts`: resets a connection after this many bytes of the answer, once per entry. `stalls`: stops forwarding there instead and
 * stays open. `upgrades`: "pass", "refuse" (403), "swallow" (no answer) or "close" (closes after the handshake).
 */
export async function badRoad(target, { cuts = [], stalls = [], upgrades = 'pass' } = {}) {
  const to = new URL(target);
  const sockets = new Set();
  const road = { cuts: [...cuts], stalls: [...stalls], upgrades, made: 0, stalled: 0, upgradesSeen: 0, connections: 0 };
  const server = net.createServer((near) => {
    road.connections += 1;
    const far = net.connect(Number(to.port), to.hostname);
    for (const socket of [near, far]) {
      socket.setNoDelay(true);
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    let isUpgrade = false;
    let back = 0;
    let silent = false;
    near.on('data', (bytes) => {
      const head = bytes.toString('latin1');
      if (/^upgrade: *websocket/im.test(head)) {
        road.upgradesSeen += 1;
        isUpgrade = true;
        if (road.upgrades === 'refuse') {
          near.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
          return;
        }
        if (road.upgrades === 'swallow') return;
      }
      far.write(bytes);
    });
    far.on('data', (bytes) => {
      if (silent) return;
      if (isUpgrade && road.upgrades === 'close') {
        // Forwards the client's bytes, and of the server's only the handshake.
        const end = back === 0 ? bytes.indexOf('\r\n\r\n') + 4 : 0;
        near.write(bytes.subarray(0, end));
        if (bytes.length > end) near.destroy();
        back += end;
        return;
      }
      if (road.cuts.length > 0 && back + bytes.length > road.cuts[0]) {
        const at = Math.max(0, road.cuts.shift() - back);
        road.made += 1;
        // Bytes before a reset must arrive, so that the cut is at the planned position.
        near.write(bytes.subarray(0, at), () => near.destroy());
        silent = true;
        return;
      }
      if (road.stalls.length > 0 && back + bytes.length > road.stalls[0]) {
        const at = Math.max(0, road.stalls.shift() - back);
        road.stalled += 1;
        near.write(bytes.subarray(0, at));
        silent = true;
        return;
      }
      back += bytes.length;
      near.write(bytes);
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  road.url = `http://127.0.0.1:${server.address().port}`;
  road.cutAll = () => { for (const socket of sockets) socket.destroy(); };
  road.close = () => {
    road.cutAll();
    return new Promise((resolve) => server.close(resolve));
  };
  return road;
}
