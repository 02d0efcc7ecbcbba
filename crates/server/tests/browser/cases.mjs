// Cases that the client module must pass in Node and in Chromium. Each gets the module and its options: the address of a gateway or of
// a proxy before it, and the classes that Node lacks.

const counted = (tokens) => Array.from({ length: tokens }, (_, number) => ` t${number}`).join('');

/** Reads to the end by iteration and by listeners at once. Returns what each received. */
export async function read(tokenwire, options) {
  const stream = tokenwire.stream(options);
  let heard = '';
  const states = [];
  stream.on('delta', (text) => { heard += text; });
  stream.on('reset', () => { heard = stream.text; });
  stream.on('status', ({ state, transport, error }) => states.push({ state, transport, code: error?.code ?? null }));
  const numbers = [];
  let iterated = '';
  for await (const event of stream) {
    numbers.push(event.sequence_number);
    if (event.type === 'response.output_text.delta') iterated += event.delta;
  }
  const response = await stream.response;
  return {
    id: stream.id, heard, iterated, text: stream.text, numbers, states, response,
    reconnects: stream.reconnects, transport: stream.transport, last: stream.lastSequence,
  };
}

export async function wholeAndOnce(tokenwire, { tokens, ...options }) {
  const seen = await read(tokenwire, options);
  const expected = counted(tokens);
  const wrong = [];
  for (const way of ['heard', 'iterated', 'text']) if (seen[way] !== expected) wrong.push(`${way}: ${seen[way].slice(0, 200)}`);
  const final = seen.response.output.flatMap((item) => item.content).map((part) => part.text).join('');
  if (final !== expected) wrong.push(`final: ${final.slice(0, 200)}`);
  // A stream for SDKs omits the usage chunk, whose number is the one before the last.
  const last = seen.numbers.length - 1;
  const isWrong = (number, at) => (at === last ? number < at || number > at + 1 : number !== at);
  if (seen.numbers.some(isWrong)) wrong.push(`numbers: ${seen.numbers.join(' ').slice(0, 400)}`);
  if (seen.response.status !== 'completed') wrong.push(`status: ${seen.response.status}`);
  return { wrong, reconnects: seen.reconnects, transport: seen.transport, states: seen.states, id: seen.id };
}

/** Reads several streams on one socket. */
export async function lanes(tokenwire, { inputs, tokens, model, ...options }) {
  const socket = tokenwire.connect(options);
  const streams = inputs.map((input) => socket.stream({ model, input }));
  const texts = await Promise.all(streams.map((stream) => stream.finalText));
  const statuses = await Promise.all(streams.map(async (stream) => (await stream.response).status));
  const reconnects = streams.map((stream) => stream.reconnects);
  const left = socket.lanes;
  socket.close();
  const wrong = texts.flatMap((text, at) => (text === counted(tokens[at]) && statuses[at] === 'completed' ? [] : [`lane ${at}, ${statuses[at]}, ${text.length} characters: ${text.slice(0, 60)}`]));
  return { wrong, reconnects, left };
}

/** Aborts a stream after some tokens. Returns the error and the state. */
export async function abortAfter(tokenwire, { tokens, ...options }) {
  const controller = new AbortController();
  const stream = tokenwire.stream({ ...options, signal: controller.signal });
  let seen = 0;
  stream.on('delta', () => { if ((seen += 1) === tokens) controller.abort(); });
  const error = await stream.response.then(() => null, (error) => error);
  return { name: error?.name ?? null, state: stream.state, seen };
}

export async function failure(tokenwire, options) {
  const stream = tokenwire.stream(options);
  const error = await stream.response.then(() => null, (error) => error);
  return error && { name: error.name, code: error.code, status: error.status, retryable: error.retryable, message: error.message, explanation: error.explanation, text: stream.text };
}

/** Reads to the end, however it ends. `shrunk` are the changes after which the text did not begin with the text before. */
export async function outcome(tokenwire, options, { onDelta = () => {} } = {}) {
  const stream = tokenwire.stream(options);
  stream.on('delta', onDelta);
  const [numbers, codes, shrunk] = [[], [], []];
  let before = '';
  stream.on('event', (event) => {
    numbers.push(event.sequence_number);
    if (!stream.text.startsWith(before)) shrunk.push([before, stream.text]);
    before = stream.text;
  });
  stream.on('status', ({ state, error }) => { if (state === 'waiting' && error) codes.push(error.code); });
  const error = await stream.response.then(() => null, (error) => error);
  return { text: stream.text, code: error?.code ?? null, explanation: error?.explanation ?? null, numbers, codes, shrunk, reconnects: stream.reconnects, state: stream.state };
}
