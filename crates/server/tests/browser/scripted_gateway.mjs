// A gateway that answers each connection as its test says: it repeats events, leaves some out, resets, closes and refuses.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import path from 'node:path';
import { WebSocketServer } from 'ws';
import { clientFolder } from './surroundings.mjs';

export const ID = 'resp_aaaaaaaaaaaaaaaaaaaaaa';
/** A gateway that takes a log over from another process goes on at the next multiple of this number. */
export const EPOCH = 2 ** 24;
/** The number of the last event of a stream whose node was lost. */
const LOST_NUMBER = 2 ** 31 - 1;

export function object(status, text, code = null) {
  const error = code === null ? null : { code, message: `It failed: ${code}.` };
  const content = [{ type: 'output_text', text, annotations: [] }];
  return { id: ID, object: 'response', status, error, output: [{ type: 'message', id: 'msg_0', role: 'assistant', status: 'completed', content }] };
}

function delta(number, text) {
  return { type: 'response.output_text.delta', sequence_number: number, item_id: 'msg_0', output_index: 0, content_index: 0, delta: text };
}

function ending(number, response) {
  return { type: `response.${response.status}`, sequence_number: number, response };
}

function reset(number, response) {
  return { type: 'tokenwire:reset', sequence_number: number, response };
}

/** Between two events: a pause in which a reader takes what came before, on a busy machine too. A cut may discard what it has not. */
const PAUSE = null;
const PAUSED_FOR = 500;

/** A stream of six events. Over a Responses upstream the last one skips two numbers. */
export const LOG = [
  { type: 'response.created', sequence_number: 0, response: object('in_progress', '') },
  delta(1, 'a'), delta(2, 'b'), delta(3, 'c'), delta(4, 'd'),
  ending(7, object('completed', 'abcd')),
];
const COMPLETED = { text: 'abcd', code: null, numbers: [0, 1, 2, 3, 4, 7] };
const BROKEN = { events: [...LOG.slice(0, 4), PAUSE], then: 'cut' };

/**
 * What a reader meets after its first connection is gone, and what it must make of it.
 *
 * `connections`: each has `events`; `then`: "close" (an orderly end), "cut" (a reset), a WebSocket's close code, or "stay";
 * `status`: an answer without events; `retry`: milliseconds, as a busy gateway names them. The last entry is used again.
 */
export const RECONNECTS = {
  'events that come again are applied once': { connections: [BROKEN, { events: LOG.slice(2) }], expected: { ...COMPLETED, cursors: [null, 3] } },
  'an orderly end before the last event is no end': {
    connections: [{ events: LOG.slice(0, 4), then: 'close' }, { events: LOG.slice(4) }], expected: { ...COMPLETED, cursors: [null, 3] },
  },
  'a close with 1012 is followed by a resume': {
    connections: [{ events: LOG.slice(0, 3), then: 1012 }, { events: LOG.slice(3, 4), then: 1012 }, { events: LOG.slice(4) }],
    expected: { ...COMPLETED, cursors: [null, 2, 3] },
  },
  'connections that end without an event are not repeated at once': {
    connections: [BROKEN, { events: [], then: 'close', retry: 150 }, { events: [], then: 'close', retry: 150 }, { events: LOG.slice(4) }],
    expected: { ...COMPLETED, cursors: [null, 3, 3, 3] }, pause: 140,
  },
  'events that are missing are asked for again': {
    connections: [{ events: [...LOG.slice(0, 2), ...LOG.slice(3)] }, { events: LOG.slice(3) }, { events: LOG.slice(2) }],
    expected: { ...COMPLETED, cursors: [null, 1, 1], codes: ['events_missing', 'events_missing'] },
  },
  'a reset to an earlier number applies': {
    connections: [BROKEN, { events: [reset(2, object('in_progress', 'ab')), PAUSE, ...LOG.slice(3)] }], expected: { ...COMPLETED, numbers: [0, 1, 2, 3, 2, 3, 4, 7] },
  },
  'a reset in mid-stream replaces the text': {
    connections: [{ events: [...LOG.slice(0, 4), reset(9, object('in_progress', 'xy')), delta(10, 'z'), ending(11, object('completed', 'xyz'))] }],
    expected: { text: 'xyz', code: null, numbers: [0, 1, 2, 3, 9, 10, 11] },
  },
  'a lost process ends the stream in the next epoch': {
    connections: [BROKEN, { events: [ending(EPOCH, object('failed', 'abc', 'producer_lost'))] }],
    expected: { text: 'abc', code: 'producer_lost', numbers: [0, 1, 2, 3, EPOCH] },
  },
  'a lost node ends the stream': {
    connections: [BROKEN, { events: [ending(LOST_NUMBER, object('failed', 'ab', 'producer_lost'))] }],
    expected: { text: 'abc', code: 'producer_lost', numbers: [0, 1, 2, 3, LOST_NUMBER] },
  },
  'a reset that a crash made shorter keeps the longer text': {
    connections: [BROKEN, { events: [reset(EPOCH, object('failed', 'ab', 'producer_lost'))] }],
    expected: { text: 'abc', code: 'producer_lost', numbers: [0, 1, 2, 3, EPOCH] },
  },
  'a reset after a crash brings what was not received': {
    connections: [BROKEN, { events: [reset(EPOCH, object('failed', 'abcde', 'producer_lost'))] }],
    expected: { text: 'abcde', code: 'producer_lost', numbers: [0, 1, 2, 3, EPOCH] },
  },
  'a reset after a crash with another text applies': {
    connections: [BROKEN, { events: [reset(EPOCH, object('failed', 'ax', 'producer_lost'))] }],
    expected: { text: 'ax', code: 'producer_lost', numbers: [0, 1, 2, 3, EPOCH] },
  },
  'a reset to a shorter text applies where no process was lost': {
    connections: [BROKEN, { events: [reset(9, object('failed', 'ab', 'upstream_error'))] }],
    expected: { text: 'ab', code: 'upstream_error', numbers: [0, 1, 2, 3, 9] },
  },
  'a stream that ended in the meantime is completed from its object': {
    connections: [BROKEN, { status: 204 }], object: object('completed', 'abcd'), expected: { text: 'abcd', code: null, numbers: [0, 1, 2, 3, 3] },
  },
  'a stream that a crash ended in the meantime keeps the longer text': {
    connections: [BROKEN, { status: 204 }], object: object('failed', 'ab', 'producer_lost'),
    expected: { text: 'abc', code: 'producer_lost', numbers: [0, 1, 2, 3, 3] },
  },
  'a stream that the gateway has no more fails at once and keeps its text': {
    connections: [BROKEN, { status: 404 }], expected: { text: 'abc', code: 'stream_lost', numbers: [0, 1, 2, 3] },
  },
};

/** Starts a gateway that answers its connections in turn, over every transport, and has the chat page. `seen` lists the connections. */
export async function scriptedGateway(connections, { response: kept = null } = {}) {
  const seen = [];
  const next = (cursor) => {
    seen.push({ cursor, at: performance.now() });
    return connections[Math.min(seen.length, connections.length) - 1];
  };
  const notFound = { status: 404, error: { code: 'not_found', message: 'There is no such stream.', type: 'invalid_request_error' } };
  const server = createServer(async (request, response) => {
    request.resume();
    const open = { 'Access-Control-Allow-Origin': '*', 'Access-Control-Allow-Headers': '*', 'Access-Control-Expose-Headers': 'Location' };
    if (request.method === 'OPTIONS') return response.writeHead(204, open).end();
    const { pathname } = new URL(request.url, 'http://localhost');
    if (pathname === '/v1/models') return response.writeHead(200, { 'Content-Type': 'application/json' }).end('{"data":[{"id":"simulator"}]}');
    if (pathname === '/' || pathname === '/tokenwire.js' || pathname.startsWith('/page/')) return sendFile(response, pathname);
    if (pathname === `/v1/responses/${ID}`) return response.writeHead(200, { ...open, 'Content-Type': 'application/json' }).end(JSON.stringify(kept));
    const { events = [], then = 'stay', status = 200, retry = 50 } = next(cursorOf(request));
    if (status === 204) return response.writeHead(204, open).end();
    if (status !== 200) return response.writeHead(status, { ...open, 'Content-Type': 'application/json' }).end(JSON.stringify(notFound));
    response.writeHead(200, { ...open, 'Content-Type': 'text/event-stream', Location: `/v1/streams/${ID}` });
    response.write(`retry: ${retry}\n${events.length === 0 ? '\n' : ''}`);
    await inTurn(events, (event) => response.write(`id: ${ID}.${event.sequence_number}\ndata: ${JSON.stringify(event)}\n\n`));
    if (then === 'cut') return request.socket.destroy();
    return then === 'stay' ? undefined : response.end();
  });
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (socket) => socket.on('message', async (bytes) => {
    const { type, stream_id, starting_after: cursor = null } = JSON.parse(bytes);
    if (!['response.create', 'tokenwire:resume'].includes(type)) return;
    const { events = [], then = 'stay', status = 200 } = next(cursor);
    const send = (message) => socket.send(JSON.stringify({ ...message, stream_id }));
    if (status === 404) return send({ type: 'tokenwire:error', response_id: ID, ...notFound });
    if (type === 'tokenwire:resume') send({ type: 'tokenwire:resumed', response_id: ID, from: cursor + 1, head: cursor, status: status === 204 ? kept.status : 'in_progress' });
    await inTurn(events, send);
    if (then === 'cut') socket.terminate();
    else if (then !== 'stay') socket.close(then === 'close' ? 1001 : then);
  }));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    seen,
    close: () => { sockets.clients.forEach((socket) => socket.terminate()); server.closeAllConnections(); server.close(); },
  };
}

async function inTurn(events, send) {
  for (const event of events) {
    if (event === PAUSE) await new Promise((resolve) => setTimeout(resolve, PAUSED_FOR));
    else send(event);
  }
}

/** The pauses that the gateway asked for are kept. The first reconnect after a failure needs none. */
export function assertPauses(seen, pause) {
  for (const [at, each] of seen.entries()) {
    if (at < 2) continue;
    const waited = each.at - seen[at - 1].at;
    assert.ok(waited >= pause, `connection ${at} came after ${Math.round(waited)} ms`);
  }
}

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };

/** Sends a file of the chat page. */
async function sendFile(response, pathname) {
  const name = pathname === '/' ? 'page/index.html' : pathname === '/tokenwire.js' ? 'client/tokenwire.js' : pathname.slice(1);
  const bytes = await readFile(path.join(clientFolder, '..', name)).catch(() => null);
  response.writeHead(bytes === null ? 404 : 200, { 'Content-Type': `${TYPES[path.extname(name)]}; charset=utf-8` }).end(bytes);
}

function cursorOf(request) {
  const id = request.headers['last-event-id'];
  const after = new URL(request.url, 'http://localhost').searchParams.get('after');
  if (id !== undefined) return Number(id.split('.')[1]);
  return after === null ? null : Number(after);
}
