// The frame of an agent's program in Node: reads the cases, runs each, prints one line of JSON per case.
import { text } from 'node:stream/consumers';

// The gateway takes any key.
export const apiKey = 'sk-of-a-test';

/** The tool of all agents. */
export const weather = { name: 'get_weather', description: 'Returns the weather of a city.', answer: ({ city }) => `rain in ${city}` };

/**
 * Runs each case of the standard input with the function that `ways` has under its name. A function takes the case (`url`, `model`,
 * `stream`, `questions`) and returns the text of each turn.
 */
export async function run(ways) {
  for (const one of JSON.parse(await text(process.stdin))) {
    let result;
    try {
      result = { texts: await ways[one.way](one) };
    } catch (error) {
      result = { error: `${error.stack}\n${JSON.stringify(error)}` };
    }
    console.log(JSON.stringify(result));
  }
}
