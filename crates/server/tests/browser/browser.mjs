// Debian's Chromium. Console errors, exceptions and foreign requests of a page are recorded for the test that opened it.
import { mkdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';
import { gateway } from './surroundings.mjs';

const artifacts = process.env.TOKENWIRE_ARTIFACTS;
if (artifacts) mkdirSync(artifacts, { recursive: true });

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

let browser = null;
export async function open() {
  browser ??= await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // Tests run as root in containers, where Chromium's sandbox is not available. Only this project's pages are opened.
    args: ['--no-sandbox', '--disable-background-networking', '--disable-component-update', '--no-first-run'],
  });
  return browser;
}
export async function shut() {
  await browser?.close();
  browser = null;
}

/**
 * Opens a page and records its violations: console messages, exceptions, requests to other machines.
 * `expected` matches console messages that belong to the test, such as the browser's message about a cut connection.
 */
export async function visit(url, { context = null, expected = /(?!)/, ...settings } = {}) {
  const own = context ?? (await (await open()).newContext(settings));
  const page = await own.newPage();
  const wrong = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type()) && !expected.test(message.text())) wrong.push(`${message.type()}: ${message.text()}`);
  });
  page.on('pageerror', (error) => wrong.push(`exception: ${error.stack ?? error}`));
  const isHere = (address) => ['127.0.0.1', 'localhost'].includes(new URL(address).hostname) || address.startsWith('data:');
  page.on('request', (request) => { if (!isHere(request.url())) wrong.push(`request to ${request.url()}`); });
  page.on('websocket', (socket) => { if (!isHere(socket.url())) wrong.push(`WebSocket to ${socket.url()}`); });
  await page.goto(url);
  return { page, context: own, wrong, close: () => (context ? page.close() : own.close()) };
}

/** Opens the chat page and waits until it accepts a question. */
export async function chat(settings = {}, at = `${gateway}/`) {
  const visited = await visit(at, settings);
  await visited.page.waitForFunction(() => document.querySelectorAll('#model option').length > 0);
  return visited;
}

export async function ask(page, question, transport = null) {
  if (transport) await page.selectOption('#transport', transport);
  await page.fill('#question', question);
  await page.press('#question', 'Enter');
}

/** Returns the text of the last answer as it is shown. */
export function answer(page) {
  return page.evaluate(() => document.querySelector('#turns article:last-child .markdown')?.textContent ?? '');
}

/** Waits until this many counted tokens are shown. */
export function shown(page, tokens) {
  return page.waitForFunction(
    (last) => (document.querySelector('#turns article:last-child .markdown')?.textContent ?? '').split(' ').includes(last), `t${tokens - 1}`,
    { timeout: 30_000 },
  );
}

export function state(page, name) {
  return page.waitForFunction((name) => document.getElementById('state').dataset.state === name, name, { timeout: 30_000 });
}

export async function meter(page, name) {
  return (await page.textContent(`#m-${name}`)).trim();
}

export async function picture(page, name) {
  if (artifacts) await page.screenshot({ path: `${artifacts}/${name}.png` });
}

/** Returns axe's serious findings. */
export async function findings(page) {
  const { violations } = await page.evaluate(`${axe};axe.run(document, { resultTypes: ['violations'] })`);
  return violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))
    .map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html).join(' | ')}`);
}
