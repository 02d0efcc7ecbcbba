// Tokens of a login server: oauth2-mock-server publishes the keys, jose and the server sign, openai-node sends them.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { SignJWT, UnsecuredJWT, exportSPKI, generateKeyPair, importJWK } from 'jose';
import { OAuth2Server } from 'oauth2-mock-server';
import OpenAI from 'openai';
import { simulator } from './gateway.mjs';
import { startGateway } from './own.mjs';

const AUDIENCE = 'tokenwire';
const login = new OAuth2Server();
let gateway;

before(async () => {
  await login.issuer.keys.generate('RS256', { kid: 'rsa' });
  await login.issuer.keys.generate('ES256', { kid: 'ec' });
  await login.issuer.keys.generate('EdDSA', { kid: 'ed', crv: 'Ed25519' });
  await login.start(0, '127.0.0.1');
  const issuer = {
    NAME: 'corp', ISSUER: login.issuer.url, AUDIENCE, ALGORITHMS: '[RS256, ES256, EdDSA]', JWKS_URL: `${login.issuer.url}/jwks`,
    ROLE_CLAIM: 'roles',
  };
  const settings = Object.fromEntries(Object.entries(issuer).map(([name, value]) => [`AUTH__JWT__0__${name}`, value]));
  gateway = await startGateway(`${simulator}/v1`, 'chat', { DEFAULT_MODEL: 'simulator', ...settings });
});

after(async () => {
  await gateway?.stop();
  await login.stop();
});

/** Returns the private key that the server signs with. */
async function key(kid) {
  const jwk = login.issuer.keys.get(kid);
  return importJWK(jwk, jwk.alg);
}

/** Returns a token of jose, good for ten minutes. */
function token(claims = {}) {
  return new SignJWT(claims).setIssuer(login.issuer.url).setAudience(AUDIENCE).setSubject('ann').setIssuedAt().setExpirationTime('10m');
}

function client(apiKey) {
  return new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey, maxRetries: 0 });
}

async function status(apiKey) {
  return client(apiKey).models.list().then(() => 200, (error) => error.status);
}

test('tokens of the server and of jose are accepted, and are their owner', async () => {
  // The server's own: its audience and subject are set as an application would.
  login.service.once('beforeTokenSigning', (made) => Object.assign(made.payload, { aud: AUDIENCE, sub: 'ann' }));
  const body = new URLSearchParams({ grant_type: 'client_credentials' });
  const made = await (await fetch(`${login.issuer.url}/token`, { method: 'POST', body })).json();
  const first = await client(made.access_token).responses.create({ model: 'simulator', input: '[[tokens=2 text=count]]' });
  assert.equal(first.output_text, ' t0 t1');
  for (const [kid, alg] of [['rsa', 'RS256'], ['ec', 'ES256'], ['ed', 'EdDSA']]) {
    const own = await token().setProtectedHeader({ alg, kid }).sign(await key(kid));
    assert.equal((await client(own).responses.retrieve(first.id)).id, first.id, alg);
  }
  const other = await token().setSubject('bob').setProtectedHeader({ alg: 'RS256', kid: 'rsa' }).sign(await key('rsa'));
  await assert.rejects(client(other).responses.retrieve(first.id), (error) => error.status === 404);
});

test('tokens with tricks are refused', async () => {
  const rsa = await key('rsa');
  const head = { alg: 'RS256', kid: 'rsa' };
  assert.equal(await status(await token().setProtectedHeader(head).sign(rsa)), 200);
  const stranger = await generateKeyPair('RS256');
  // The public key, as it is published, as the secret of an HMAC.
  const published = (await (await fetch(`${login.issuer.url}/jwks`)).json()).keys.find((known) => known.kid === 'rsa');
  const pem = new TextEncoder().encode(await exportSPKI(await importJWK(published, 'RS256')));
  const unsecured = new UnsecuredJWT({}).setIssuer(login.issuer.url).setAudience(AUDIENCE).setSubject('ann').setExpirationTime('10m').encode();
  const tricks = {
    'alg none': unsecured,
    'HS256 with the public key': await token().setProtectedHeader({ alg: 'HS256', kid: 'rsa' }).sign(pem),
    'another key': await token().setProtectedHeader(head).sign(stranger.privateKey),
    'another key, brought along': await token().setProtectedHeader({ ...head, jwk: published }).sign(stranger.privateKey),
    'keys elsewhere': await token().setProtectedHeader({ ...head, jku: 'http://127.0.0.1:9/jwks' }).sign(stranger.privateKey),
    'unknown kid': await token().setProtectedHeader({ alg: 'RS256', kid: 'unknown' }).sign(rsa),
    'kid of another kind of key': await token().setProtectedHeader({ alg: 'RS256', kid: 'ec' }).sign(rsa),
    'kid as a path': await token().setProtectedHeader({ alg: 'RS256', kid: '../../dev/null' }).sign(rsa),
    'an algorithm that is not listed': await token().setProtectedHeader({ alg: 'PS256', kid: 'rsa' }).sign(await importJWK({ ...login.issuer.keys.get('rsa'), alg: 'PS256' }, 'PS256')),
    expired: await token().setExpirationTime('-2m').setProtectedHeader(head).sign(rsa),
    'without end': await new SignJWT().setIssuer(login.issuer.url).setAudience(AUDIENCE).setSubject('ann').setProtectedHeader(head).sign(rsa),
    'not yet good': await token().setNotBefore('2m').setProtectedHeader(head).sign(rsa),
    'another audience': await token().setAudience('other').setProtectedHeader(head).sign(rsa),
    'another issuer': await token().setIssuer('http://127.0.0.1:9').setProtectedHeader(head).sign(rsa),
    'a role that the issuer may not give': await token({ roles: ['operator'] }).setProtectedHeader(head).sign(rsa),
    huge: await token({ more: 'x'.repeat(20_000) }).setProtectedHeader(head).sign(rsa),
  };
  for (const [name, trick] of Object.entries(tricks)) assert.equal(await status(trick), 401, name);
});
