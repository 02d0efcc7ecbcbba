// Addresses of the servers, and helpers beside the clients under test.
//
// `cargo xtask test --only node` starts a simulator and two gateways, and passes their addresses in the environment.
import net from 'node:net';
import OpenAI from 'openai';

function address(name) {
  const url = process.env[name];
  if (!url) throw new Error(`${name} is not set; run these tests with \`cargo xtask test --only node\``);
  return url.replace(/\/$/, '');
}

export const gateway = address('TOKENWIRE_URL');
export const simulator = address('SIMULATOR_URL');
export const TERMINAL = ['response.completed', 'response.incomplete', 'response.failed'];

/** Returns the SDK with its defaults, retries included. */
export function client() {
  return new OpenAI({ baseURL: `${gateway}/v1`, apiKey: 'sk-of-a-test' });
}

/** Returns the number of generations that the upstream was asked for. */
export async function requests() {
  const stats = await (await fetch(`${simulator}/stats`)).json();
  return stats.chat_completions + stats.responses;
}

/** Returns ` t0 t1 …`, the answer to `[[tokens=N text=count]]`. */
export function counted(tokens) {
  return Array.from({ length: tokens }, (_, number) => ` t${number}`).join('');
}

/**
 * Starts a faulty proxy before the gateway. It resets a connection after `bytes` of the answer, `cuts` times.
 */
export async function brokenRoad({ bytes, cuts }) {
  const target = new URL(gateway);
  const sockets = new Set();
  let left = cuts;
  const server = net.createServer((near) => {
    const far = net.connect(Number(target.port), target.hostname);
    let seen = 0;
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    near.pipe(far);
    far.on('data', (chunk) => {
      if (left > 0 && seen + chunk.length > bytes) {
        left -= 1;
        near.write(chunk.subarray(0, bytes - seen), () => near.resetAndDestroy());
        far.removeAllListeners('data');
        return;
      }
      seen += chunk.length;
      near.write(chunk);
    });
    far.on('end', () => near.end());
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cutsLeft: () => left,
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
