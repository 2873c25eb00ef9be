// A certified authorization server (oidc-provider) on a free port of 127.0.0.1, for the tests to speak to.
//
//   node server.mjs        prints one line of JSON on standard output when it is ready, then nothing more there:
//                          {"issuer":"http://127.0.0.1:41234","port":41234,"client_id":"peer-client",
//                           "client_secret":"peer-secret"}
//                          It ends with status 0 when its standard input closes, or on SIGTERM.
//
// One client, peer-client / peer-secret, for authorization code, refresh and client credentials. This server takes its
// secret in an Authorization header and in the form body alike.
//
// Environment:
//   PEER_ACCESS_TOKEN_SECONDS    life of an access token (3600)
//   PEER_REFRESH_TOKEN_SECONDS   life of a refresh token (1209600)
//   PEER_ROTATE=0                keep refresh tokens instead of rotating them
//
// Control, which a real server has not. The broker's redirect URI holds a connector id that is known only at run time.
//   POST /control/redirect-uri   {"redirect_uri": "http://127.0.0.1:1234/oauth/callback/ctr_x"} -> 204; adds one, matched exactly
//   GET  /control/ledger         [{"grant_type": "refresh_token", "outcome": "success"}, {"revoked": true}, ...]
//                                every answer of the token and revocation endpoints, in order
//
// Signing in takes any name, which becomes the subject, and any password. The pages are plain forms:
//   /interaction/{uid} with fields prompt=login&login=NAME&password=X, then prompt=consent; /interaction/{uid}/abort refuses.
// PKCE with S256 is required. A refresh token needs the scope offline_access together with prompt=consent. A refresh
// rotates the refresh token; presenting a spent one ends the whole grant.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';

// The library announces its development features through the console; standard output carries our one line only.
console.info = console.error;
console.log = console.error;

const { default: Provider } = await import('oidc-provider');

const seconds = (name, fallback) => {
  const value = Number(process.env[name] ?? fallback);
  if (!Number.isInteger(value) || value < 1) {
    throw new Error(`${name} must be a whole number of seconds`);
  }
  return value;
};

const accessTokenSeconds = seconds('PEER_ACCESS_TOKEN_SECONDS', 3600);
const refreshTokenSeconds = seconds('PEER_REFRESH_TOKEN_SECONDS', 14 * 24 * 3600);
const rotates = process.env.PEER_ROTATE !== '0';
const clientId = 'peer-client';
const clientSecret = 'peer-secret';
const redirectUris = new Set();
const ledger = [];

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

const client = {
  client_id: clientId,
  client_secret: clientSecret,
  token_endpoint_auth_method: 'client_secret_basic',
  grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
  response_types: ['code'],
  // Registration demands one; the real ones come in through the control endpoint.
  redirect_uris: ['http://127.0.0.1/never-used'],
};

const configuration = {
  clients: [client],
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256' }] },
  cookies: { keys: [randomBytes(32).toString('base64url')] },
  claims: { openid: ['sub'], profile: ['name'], email: ['email'] },
  scopes: ['openid', 'offline_access', 'profile', 'email', 'files:read', 'files:write'],
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  rotateRefreshToken: () => rotates,
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: (_ctx, caller, token) => token.clientId === caller.clientId },
  },
  ttl: {
    AccessToken: () => accessTokenSeconds,
    AuthorizationCode: () => 60,
    ClientCredentials: () => accessTokenSeconds,
    Grant: () => refreshTokenSeconds,
    IdToken: () => 3600,
    Interaction: () => 3600,
    RefreshToken: () => refreshTokenSeconds,
    Session: () => 3600,
  },
  findAccount: (_ctx, subject) => ({
    accountId: subject,
    claims: () => ({ sub: subject, name: `${subject} at the peer`, email: `${subject}@peer.test` }),
  }),
};

const readBody = async (request) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString('utf8');
};

const answer = (response, status, value) => {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(value === undefined ? undefined : JSON.stringify(value));
};

const control = async (request, response) => {
  if (request.method === 'GET' && request.url === '/control/ledger') {
    answer(response, 200, ledger);
    return;
  }
  if (request.method === 'POST' && request.url === '/control/redirect-uri') {
    let uri;
    try {
      uri = new URL(JSON.parse(await readBody(request)).redirect_uri).href;
    } catch {
      answer(response, 400, { error: 'the body must be {"redirect_uri": "<an absolute address>"}' });
      return;
    }
    redirectUris.add(uri);
    response.writeHead(204).end();
    return;
  }
  answer(response, 404, { error: 'no such control' });
};

const server = createServer();
await new Promise((resolve, reject) => {
  server.once('error', reject);
  server.listen(0, '127.0.0.1', resolve);
});
const { port } = server.address();
const issuer = `http://127.0.0.1:${port}`;

const provider = new Provider(issuer, configuration);
provider.Client.prototype.redirectUriAllowed = (uri) => redirectUris.has(uri);

provider.use(async (ctx, next) => {
  await next();
  // The development pages import a font from the network; the tests stay on loopback.
  ctx.set('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'");
  if (ctx.oidc?.route === 'token') {
    const error = ctx.status === 200 ? undefined : ctx.body?.error;
    ledger.push({ grant_type: ctx.oidc.params?.grant_type, outcome: error ?? 'success' });
  }
  if (ctx.oidc?.route === 'revocation') {
    ledger.push({ revoked: ctx.status === 200 });
  }
});

const callback = provider.callback();
server.on('request', (request, response) => {
  if (request.url.startsWith('/control/')) {
    control(request, response).catch(() => response.destroy());
  } else {
    callback(request, response);
  }
});

const stop = () => {
  server.close(() => process.exit(0));
  server.closeAllConnections();
};
process.stdin.on('end', stop).on('close', stop).resume();
process.once('SIGTERM', stop).once('SIGINT', stop);

process.stdout.write(`${JSON.stringify({ issuer, port, client_id: clientId, client_secret: clientSecret })}\n`);
