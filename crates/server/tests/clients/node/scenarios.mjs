// Requests that together produce every type of event, with the expected results.
const parameters = {
  type: 'object',
  properties: { city: { type: 'string' }, days: { type: 'integer' } },
  required: ['city', 'days'],
  additionalProperties: false,
};
const described = { name: 'get_weather', description: 'The weather of the coming days', parameters, strict: true };
export const tool = { type: 'function', ...described };
export const chatTool = { type: 'function', function: described };

export const scenarios = [
  { name: 'text', body: { input: '[[tokens=6 text=count]]' }, items: ['message'], text: ' t0 t1 t2 t3 t4 t5' },
  { name: 'reasoning', body: { input: '[[reasoning=4 tokens=3 text=count]]' }, items: ['reasoning', 'message'], text: ' t0 t1 t2' },
  { name: 'a function call', body: { input: '[[calls=1]]', tools: [tool] }, items: ['function_call'] },
  {
    name: 'parallel function calls',
    body: { input: '[[calls=3]]', tools: [tool] },
    items: ['function_call', 'function_call', 'function_call'],
  },
  { name: 'a refusal', body: { input: '[[refusal]]' }, items: ['message'] },
  { name: 'cut off at the limit', body: { input: '[[tokens=50]]', max_output_tokens: 5 }, items: ['message'], status: 'incomplete' },
  {
    name: 'cut by the upstream',
    body: { input: '[[tokens=20 text=count fault=cut after=3]]' },
    items: ['message'],
    status: 'failed',
    text: ' t0 t1 t2',
  },
  {
    name: 'structured output',
    body: { input: 'weather?', text: { format: { type: 'json_schema', name: 'weather', schema: parameters, strict: true } } },
    items: ['message'],
  },
];
