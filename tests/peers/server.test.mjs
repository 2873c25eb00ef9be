// The peer itself: what the broker's tests take for granted about it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const redirectUri = 'http://127.0.0.1:9/oauth/callback/ctr_test';
const basic = `Basic ${Buffer.from('peer-client:peer-secret').toString('base64')}`;

let child;
let peer;
let metadata;

before(async () => {
  child = spawn(process.execPath, [fileURLToPath(new URL('server.mjs', import.meta.url))], {
    stdio: ['pipe', 'pipe', 'ignore'],
    env: { ...process.env, PEER_ACCESS_TOKEN_SECONDS: '77' },
  });
  const [line] = await once(createInterface(child.stdout), 'line');
  peer = JSON.parse(line);
  metadata = await (await fetch(`${peer.issuer}/.well-known/openid-configuration`)).json();
});

after(async () => {
  if (child.exitCode !== null) return;
  child.stdin.end();
  await once(child, 'exit');
});

/** A browser of one user: keeps cookies, follows nothing by itself. */
class Browser {
  cookies = new Map();

  async request(url, form) {
    const response = await fetch(url, {
      method: form ? 'POST' : 'GET',
      body: form && new URLSearchParams(form),
      redirect: 'manual',
      headers: { cookie: [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
    });
    for (const cookie of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
      if (value) this.cookies.set(name, value);
      else this.cookies.delete(name);
    }
    const location = response.headers.get('location');
    return { status: response.status, location: location && new URL(location, url).href, text: await response.text() };
  }

  /** Follows redirects until a page is shown or the client's redirect URI is reached. */
  async open(url, form) {
    let answer = await this.request(url, form);
    let at = url;
    while (answer.location) {
      at = answer.location;
      if (at.startsWith(redirectUri)) return { at };
      answer = await this.request(at);
    }
    return { at, ...answer };
  }
}

const challengeOf = (verifier) => createHash('sha256').update(verifier).digest('base64url');

const authorizeUrl = (extra = {}) => {
  const verifier = randomBytes(32).toString('base64url');
  const url = new URL(metadata.authorization_endpoint);
  url.search = new URLSearchParams({
    client_id: 'peer-client',
    response_type: 'code',
    redirect_uri: redirectUri,
    scope: 'openid offline_access files:read',
    prompt: 'consent',
    state: 'the-state',
    nonce: 'the-nonce',
    code_challenge: challengeOf(verifier),
    code_challenge_method: 'S256',
    ...extra,
  });
  return { url: url.href, verifier };
};

const authorize = async () => {
  const { url, verifier } = authorizeUrl();
  const browser = new Browser();
  const signIn = await browser.open(url);
  assert.match(signIn.text, /name="login"/);
  const consent = await browser.open(signIn.at, { prompt: 'login', login: 'user-1', password: 'x' });
  assert.match(consent.text, /value="consent"/);
  const home = await browser.open(consent.at, { prompt: 'consent' });
  return { query: new URL(home.at).searchParams, verifier };
};

const token = async (form, authorization = basic) => {
  const response = await fetch(metadata.token_endpoint, {
    method: 'POST',
    body: new URLSearchParams(form),
    headers: authorization ? { authorization } : {},
  });
  return { status: response.status, body: await response.json() };
};

const connect = async () => {
  const { query, verifier } = await authorize();
  const answer = await token({
    grant_type: 'authorization_code',
    code: query.get('code'),
    redirect_uri: redirectUri,
    code_verifier: verifier,
  });
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  return answer.body;
};

const isActive = async (value) => {
  const response = await fetch(metadata.introspection_endpoint, {
    method: 'POST',
    body: new URLSearchParams({ token: value }),
    headers: { authorization: basic },
  });
  return (await response.json()).active;
};

test('a redirect URI that was not registered is refused', async () => {
  const answer = await new Browser().open(authorizeUrl().url);
  assert.equal(answer.status, 400);
  assert.match(answer.text, /invalid_redirect_uri|redirect_uri/);
});

test('registering a redirect URI answers 204 and nonsense 400', async () => {
  const post = (body) => fetch(`${peer.issuer}/control/redirect-uri`, { method: 'POST', body });
  assert.equal((await post(JSON.stringify({ redirect_uri: redirectUri }))).status, 204);
  assert.equal((await post('{"redirect_uri":"nowhere"}')).status, 400);
});

test('the metadata promises iss, PKCE, revocation and introspection', () => {
  assert.equal(metadata.issuer, peer.issuer);
  assert.equal(metadata.authorization_response_iss_parameter_supported, true);
  assert.deepEqual(metadata.code_challenge_methods_supported, ['S256']);
  assert.ok(metadata.revocation_endpoint.startsWith(peer.issuer));
  assert.ok(metadata.introspection_endpoint.startsWith(peer.issuer));
});

test('an authorization without PKCE comes home as invalid_request', async () => {
  const url = new URL(authorizeUrl().url);
  url.searchParams.delete('code_challenge');
  url.searchParams.delete('code_challenge_method');
  const { at } = await new Browser().open(url.href);
  assert.equal(new URL(at).searchParams.get('error'), 'invalid_request');
});

test('a consent that is refused comes home as access_denied', async () => {
  const browser = new Browser();
  const page = await browser.open(authorizeUrl().url);
  const { at } = await browser.open(`${page.at}/abort`);
  assert.equal(new URL(at).searchParams.get('error'), 'access_denied');
});

test('the code comes home with state and iss and buys a token set once', async () => {
  const { query, verifier } = await authorize();
  assert.equal(query.get('state'), 'the-state');
  assert.equal(query.get('iss'), peer.issuer);
  const form = { grant_type: 'authorization_code', code: query.get('code'), redirect_uri: redirectUri };
  const wrong = await token({ ...form, code_verifier: 'w'.repeat(43) });
  assert.equal(wrong.body.error, 'invalid_grant');
  const first = await token({ ...form, code_verifier: verifier });
  assert.equal(first.status, 200);
  assert.equal(first.body.expires_in, 77);
  const claims = JSON.parse(Buffer.from(first.body.id_token.split('.')[1], 'base64url'));
  assert.deepEqual([claims.iss, claims.sub, claims.nonce], [peer.issuer, 'user-1', 'the-nonce']);
  const second = await token({ ...form, code_verifier: verifier });
  assert.equal(second.body.error, 'invalid_grant');
});

test('a refresh rotates, and presenting the spent token ends the grant', async () => {
  const first = await connect();
  const next = await token({ grant_type: 'refresh_token', refresh_token: first.refresh_token });
  assert.equal(next.status, 200);
  assert.notEqual(next.body.refresh_token, first.refresh_token);
  const replay = await token({ grant_type: 'refresh_token', refresh_token: first.refresh_token });
  assert.equal(replay.body.error, 'invalid_grant');
  const successor = await token({ grant_type: 'refresh_token', refresh_token: next.body.refresh_token });
  assert.equal(successor.body.error, 'invalid_grant');
});

test('revoking the refresh token ends the access token too', async () => {
  const set = await connect();
  assert.equal(await isActive(set.access_token), true);
  const revoked = await fetch(metadata.revocation_endpoint, {
    method: 'POST',
    body: new URLSearchParams({ token: set.refresh_token, token_type_hint: 'refresh_token' }),
    headers: { authorization: basic },
  });
  assert.equal(revoked.status, 200);
  assert.equal(await isActive(set.access_token), false);
  const refused = await token({ grant_type: 'refresh_token', refresh_token: set.refresh_token });
  assert.equal(refused.body.error, 'invalid_grant');
});

test('client credentials answer to a secret in the header and in the body, and to no other secret', async () => {
  const wanted = { grant_type: 'client_credentials', scope: 'files:read' };
  assert.equal((await token(wanted)).status, 200);
  assert.equal((await token({ ...wanted, client_id: 'peer-client', client_secret: 'peer-secret' }, null)).status, 200);
  const wrong = await token({ ...wanted, client_id: 'peer-client', client_secret: 'another' }, null);
  assert.equal(wrong.body.error, 'invalid_client');
});

test('the ledger tells every token call and revocation in order', async () => {
  const earlier = await (await fetch(`${peer.issuer}/control/ledger`)).json();
  const set = await connect();
  await token({ grant_type: 'refresh_token', refresh_token: set.refresh_token });
  await token({ grant_type: 'refresh_token', refresh_token: set.refresh_token });
  const ledger = await (await fetch(`${peer.issuer}/control/ledger`)).json();
  assert.deepEqual(
    ledger.slice(earlier.length).map(({ grant_type, outcome }) => `${grant_type}: ${outcome}`),
    ['authorization_code: success', 'refresh_token: success', 'refresh_token: invalid_grant'],
  );
});

test('it ends with status 0 when its standard input closes', async () => {
  child.stdin.end();
  const [status] = await once(child, 'exit');
  assert.equal(status, 0);
});
