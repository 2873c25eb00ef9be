// Chromium, and the running system under test.

import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  // Loopback only: nothing here needs another host.
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost',
];

function address(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} must hold the address of the running system under test`);
  return value.replace(/\/$/, '');
}

/** The demo application, the broker and the sandbox provider, all on loopback. */
export const app = address('VALETKEY_BROWSER_APP');
export const broker = address('VALETKEY_BROWSER_BROKER');
export const sandbox = address('VALETKEY_BROWSER_SANDBOX');

/** A browser with a fresh user data directory. Its popup blocker is on, as it is for people. */
export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: FLAGS,
    ignoreDefaultArgs: ['--disable-popup-blocking'],
  });
}

/** A profile of its own, which also keeps what the pages complain about and what is fetched. */
export async function profile(browser, options) {
  const context = await browser.newContext(options);
  const complaints = [];
  const requests = [];
  context.on('console', (message) => {
    if (/Content Security Policy|Trusted Type/i.test(message.text())) complaints.push(message.text());
  });
  context.on('weberror', (error) => complaints.push(String(error.error())));
  context.on('request', (request) => requests.push(request.url()));
  return Object.assign(context, { complaints, requests });
}

/** Changes how the provider behaves. */
export async function provider(patch) {
  const response = await fetch(`${sandbox}/control/settings`, {
    method: 'PATCH',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(patch),
  });
  if (!response.ok) throw new Error(`the sandbox refused ${JSON.stringify(patch)}: ${response.status}`);
}

/** A provider that asks, answers and cuts nobody off. */
export const plainProvider = () => provider({ auto_consent: false, authorize: { error: null, coop: 'none' } });
