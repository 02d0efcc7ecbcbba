// Checks the types with TypeScript against a program that uses all of them.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import ts from 'typescript';
import { client, clientFolder } from './surroundings.mjs';

const PROGRAM = `
import { attach, connect, SseParser, stream, TokenwireError, TokenwireSocket, type StreamStatus, type Transport } from 'TOKENWIRE';
const transport: Transport = 'auto';
const answer = stream({ input: 'x', transport, signal: new AbortController().signal, temperature: 0.5, headers: async () => ({ a: 'b' }) });
const undo: () => void = answer.on('delta', (text, event) => { const n: number = event.sequence_number; text.trim(); n.toFixed(); });
answer.on('status', (status: StreamStatus) => { const error: Error | null = status.error; void error; });
answer.on('error', (error) => { const words: string = error.explanation; void words; });
const text: Promise<string> = answer.finalText;
const id: Promise<string> = answer.started;
async function read() { for await (const event of attach('resp_x', { after: 3 })) event.type.trim(); }
const socket: TokenwireSocket = connect({ baseUrl: 'http://localhost:3000', WebSocket: class {} });
const lane = socket.stream({ messages: [{ role: 'user', content: 'x' }] });
lane.cut(); lane.close(); socket.close();
new SseParser().push(new Uint8Array()).map(({ data }) => data.trim());
if (lane.response instanceof TokenwireError) throw lane.response;
// @ts-expect-error there is no such transport
stream({ input: 'x', transport: 'pigeon' });
// @ts-expect-error there is no such event
answer.on('pigeon', () => {});
void [undo, text, id, read];
`;

test('a program that uses the whole API type-checks', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tokenwire-types-'));
  const file = join(folder, 'program.ts');
  await writeFile(file, PROGRAM.replace('TOKENWIRE', `${clientFolder}/tokenwire.js`));
  const options = { strict: true, noEmit: true, target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler, lib: ['lib.es2022.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts'], types: [], skipLibCheck: false };
  const found = ts.getPreEmitDiagnostics(ts.createProgram([file], options));
  await rm(folder, { recursive: true });
  assert.deepEqual(found.map((each) => ts.flattenDiagnosticMessageText(each.messageText, '\n')), []);
});

test('the types declare exactly the exports of the module', async () => {
  const types = await readFile(`${clientFolder}/tokenwire.d.ts`, 'utf8');
  const typed = [...types.matchAll(/^export (?:class|function) (\w+)/gm)].map(([, name]) => name);
  // Classes are exported so that they can be named.
  assert.deepEqual([...new Set(typed)].sort(), Object.keys(client).sort());
});

test('the package contains the files of its manifest', async () => {
  const manifest = JSON.parse(await readFile(`${clientFolder}/package.json`, 'utf8'));
  for (const file of manifest.files) assert.ok((await readFile(`${clientFolder}/${file}`, 'utf8')).length > 0, file);
  assert.equal(manifest.dependencies, undefined);
});
