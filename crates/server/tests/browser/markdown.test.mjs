// The page's Markdown renderer, in Chromium.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { shut, visit } from './browser.mjs';
import { gateway } from './surroundings.mjs';

let visited;
before(async () => { visited = await visit(`${gateway}/`); });
after(async () => {
  await shut();
  assert.deepEqual(visited.wrong, []);
});

/** Returns the markup of `text`, rendered at once and rendered letter by letter. */
function drawn(text) {
  return visited.page.evaluate(async (text) => {
    const { MarkdownView } = await import('/page/markdown.js');
    const [whole, grown] = [document.createElement('div'), document.createElement('div')];
    new MarkdownView(whole).show(text, { done: true });
    const view = new MarkdownView(grown);
    for (let length = 1; length <= text.length; length += 1) view.show(text.slice(0, length));
    view.show(text, { done: true });
    return { whole: whole.innerHTML, grown: grown.innerHTML, text: whole.textContent };
  }, text);
}

async function check(text, expected) {
  const { whole, grown } = await drawn(text);
  assert.equal(whole, expected, text);
  assert.equal(grown, whole, `rendering letter by letter differs: ${text}`);
}

const link = (address, text) => `<a href="${address}" target="_blank" rel="noopener noreferrer">${text}</a>`;

describe('Markdown', () => {
  test('inline elements', async () => {
    await check('a **b** *c* __d__ _e_ ***f*** ~~g~~', '<p>a <strong>b</strong> <em>c</em> <strong>d</strong> <em>e</em> <em><strong>f</strong></em> <s>g</s></p>');
    await check('**a *b* c**', '<p><strong>a <em>b</em> c</strong></p>');
    await check('snake_case_name and 2 * 3 * 4', '<p>snake_case_name and 2 * 3 * 4</p>');
    await check('`a*b*` and ``a`b``', '<p><code>a*b*</code> and <code>a`b</code></p>');
    await check('never **closed and `open', '<p>never **closed and `open</p>');
    await check('\\*plain\\* a  \nb\nc', '<p>*plain* a<br>b\nc</p>');
  });

  test('only safe links become links', async () => {
    await check('[a](https://x.example/y "t")', `<p>${link('https://x.example/y', 'a')}</p>`);
    await check('[*a*](mailto:a@x.example)', `<p>${link('mailto:a@x.example', '<em>a</em>')}</p>`);
    await check('see https://x.example/a_(b). Or <https://y.example/>', `<p>see ${link('https://x.example/a_(b)', 'https://x.example/a_(b)')}. Or ${link('https://y.example/', 'https://y.example/')}</p>`);
    for (const bad of ['javascript:alert(1)', 'JAVASCRIPT:alert(1)', ' javascript:alert(1)', 'data:text/html,x', 'vbscript:x', '//x.example', '/v1/models', 'java\tscript:x', '&#106;avascript:x']) {
      const { whole } = await drawn(`[a](${bad}) [b](<${bad}>)`);
      assert.doesNotMatch(whole, /<a /, bad);
    }
    await check('![a picture](https://x.example/p.png)', `<p>${link('https://x.example/p.png', 'a picture')}</p>`);
  });

  test('HTML is shown as text', async () => {
    await check('<img src=x onerror=alert(1)> &lt; <b>x</b>', '<p>&lt;img src=x onerror=alert(1)&gt; &amp;lt; &lt;b&gt;x&lt;/b&gt;</p>');
    const { whole } = await drawn('```"><script>alert(1)</script>\n<script>alert(1)</script>\n```');
    assert.doesNotMatch(whole, /<script/);
  });

  test('blocks', async () => {
    await check('# a\n## b #\ntext\n---\nc', '<h3 class="level-1">a</h3><h4 class="level-2">b</h4><p>text</p><hr><p>c</p>');
    await check('> a\n> b\n>\n> - c\n\nd', '<blockquote><p>a\nb</p><ul><li>c</li></ul></blockquote><p>d</p>');
    await check('1. a\n2. b\n   - c\n   - d\n3. e', '<ol><li>a</li><li>b<ul><li>c</li><li>d</li></ul></li><li>e</li></ol>');
    await check('3) a\n4) b', '<ol start="3"><li>a</li><li>b</li></ol>');
    await check('- a\n\n- b', '<ul><li><p>a</p></li><li><p>b</p></li></ul>');
    await check('In\n1989. A year', '<p>In\n1989. A year</p>');
    await check('- [x] a\n- [ ] b', '<ul><li><input type="checkbox" disabled="" aria-label="done"> a</li><li><input type="checkbox" disabled="" aria-label="not done"> b</li></ul>');
  });

  test('tables', async () => {
    const { whole, grown } = await drawn('| a | b |\n|---|--:|\n| `x` | 1 |\n| y \\| z |\n\nafter');
    assert.equal(grown, whole);
    assert.match(whole, /<thead><tr><th scope="col">a<\/th><th class="to-right" scope="col">b<\/th><\/tr><\/thead>/);
    assert.match(whole, /<tr><td><code>x<\/code><\/td><td class="to-right">1<\/td><\/tr><tr><td>y \| z<\/td><td class="to-right"><\/td><\/tr>/);
    assert.match(whole, /<p>after<\/p>$/);
  });

  test('code', async () => {
    const { whole, grown, text } = await drawn('```js\nlet a = `x`;\n\n  b();\n```\nafter\n\n~~~\nopen ``` end');
    assert.equal(grown, whole);
    assert.match(whole, /<span>js<\/span>/);
    assert.ok(text.includes('let a = `x`;\n\n  b();'));
    assert.ok(text.endsWith('open ``` end'));
    assert.match(whole, /<p>after<\/p>/);
  });

  test('finished blocks are not redrawn', async () => {
    const kept = await visited.page.evaluate(async () => {
      const { MarkdownView } = await import('/page/markdown.js');
      const container = document.createElement('div');
      const view = new MarkdownView(container);
      let text = 'first\n\n```\ncode\n';
      view.show(text);
      const [first, code] = [...container.children];
      for (let line = 0; line < 50; line += 1) view.show(text += `line ${line}\n`);
      view.show(`${text}\`\`\`\n\nlast`);
      return [container.children[0] === first, container.children[1] === code, container.children.length];
    });
    assert.deepEqual(kept, [true, true, 3]);
  });

  test('no input takes quadratic time', async () => {
    const texts = ['*'.repeat(20_000), '[('.repeat(10_000), '`a'.repeat(10_000), '> '.repeat(5_000), '_a'.repeat(10_000), '**a '.repeat(5_000), '- '.repeat(5000), '|'.repeat(20_000), `${'|a'.repeat(5000)}\n|-`];
    for (const text of texts) {
      const took = await visited.page.evaluate(async (text) => {
        const { MarkdownView } = await import('/page/markdown.js');
        const container = document.createElement('div');
        const started = performance.now();
        const view = new MarkdownView(container);
        view.show(text);
        view.show(text, { done: true });
        return performance.now() - started;
      }, text);
      // Quadratic time would take minutes for these lengths. The bound is not a measurement.
      assert.ok(took < 30_000, `${text.slice(0, 20)}…: ${took} ms`);
    }
  });
});
