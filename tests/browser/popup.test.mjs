// The popup in Chromium, against the running demo application, broker and sandbox provider.
//
// The application's page offers: `#connect`, enabled once its module has loaded; `#outcome` (role=status), whose
// `data-status` is empty, `waiting`, `connected`, `revoked` or the status of another outcome, and whose `data-phase` is
// the attempt's phase; `#fingerprint` and `#expires`, empty without a token; `#refresh`; `#revoke`. `?mode=` is passed to
// `connect`. Its relay page has `relay` in its path.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';

import { app, broker, launch, plainProvider, profile, provider, sandbox } from './browser.mjs';

/** A person's way through the application, with time for a slow machine. */
const scenario = (name, body) => test(name, { timeout: 90_000 }, body);

let browser;
let person;
let page;

before(async () => { browser = await launch(); });
after(() => browser.close());

beforeEach(async () => {
  await plainProvider();
  person = await profile(browser);
  page = await person.newPage();
});

afterEach(async () => {
  const { complaints } = person;
  await person.close();
  assert.deepEqual(complaints, [], 'a page broke its own policy or threw');
});

/** Opens the application and waits for its module. */
async function open(mode = 'auto', on = page) {
  await on.goto(`${app}/?mode=${mode}`);
  await on.waitForSelector('#connect:enabled');
}

/** Clicks and answers the window, on the provider's page. */
async function click(on = page) {
  const [popup] = await Promise.all([on.waitForEvent('popup'), on.click('#connect')]);
  await popup.waitForSelector('button[value="allow"]');
  return popup;
}

async function allow(at) {
  await at.check('input[name="account"] >> nth=0');
  await at.click('button[value="allow"]', { noWaitAfter: true });
}

const deny = (at) => at.click('button[value="deny"]', { noWaitAfter: true });

/** Waits until the application shows how it ended. */
async function outcome(status, on = page) {
  await on.waitForSelector(`#outcome[data-status="${status}"]`, { timeout: 20_000 });
}

async function gone(popup) {
  if (!popup.isClosed()) await popup.waitForEvent('close');
}

const text = (selector) => page.textContent(selector).then((content) => content.trim());

/** Takes the next request that begins so out of the browser's hands, and answers what `read` makes of it. */
function intercept(context, prefix, read) {
  return new Promise((resolve) => {
    context.route((url) => url.href.startsWith(prefix), async (route) => {
      const seen = await read(route);
      // No content: the window stays where it is.
      await route.fulfill({ status: 204 });
      resolve(seen);
    }, { times: 1 });
  });
}

/** The start link, before anyone has opened it. */
const startLink = (context) => intercept(context, `${broker}/connect/`, (route) => route.request().url());

/** The provider's answer, before it has reached the broker: the provider is told, the browser is not. */
const callbackLink = (context) => intercept(context, `${sandbox}/authorize/decision`, async (route) => {
  const answer = await route.fetch({ maxRedirects: 0 });
  return answer.headers().location;
});

scenario('connected: the window asks, reports and closes, and the application has a token', async () => {
  await open();
  const popup = await click();
  await allow(popup);
  await outcome('connected');
  await gone(popup);
  assert.equal(relayVisited(), false, 'with an opener in reach the window reports to it');
  const first = await text('#fingerprint');
  assert.notEqual(first, '');
  assert.notEqual(await text('#expires'), '');

  await page.click('#refresh');
  await page.waitForFunction((old) => {
    const now = document.querySelector('#fingerprint').textContent.trim();
    return now !== '' && now !== old;
  }, first);

  await page.click('#revoke');
  await outcome('revoked');
  assert.equal(await text('#fingerprint'), '');
});

scenario('connected: no handle, code or state is left in an address or in storage', async () => {
  await open();
  await allow(await click());
  await outcome('connected');
  assert.doesNotMatch(page.url(), /flow_id|handle|code=/);
  const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));
  assert.doesNotMatch(stored, /handle|flw_/);
  const told = person.requests.filter((url) => url.startsWith(app) && /handle=/.test(url.split('#')[0]));
  assert.deepEqual(told, [], 'a handle in a query would be in the application\'s log');
});

scenario('refused: the application hears that the person said no, and the window closes', async () => {
  await open();
  const popup = await click();
  await deny(popup);
  await outcome('denied');
  await gone(popup);
});

scenario('an error at the provider stays to be read in the window and reaches the application', async () => {
  await open();
  await provider({ authorize: { error: 'server_error', error_description: '<b>planted words</b>' } });
  const [popup] = await Promise.all([page.waitForEvent('popup'), page.click('#connect')]);
  await outcome('failed');
  await popup.waitForSelector('h1');
  assert.equal(popup.isClosed(), false);
  assert.ok(await popup.textContent('.code code'));
  assert.equal(await popup.evaluate(() => document.activeElement.tagName), 'H1');
  assert.doesNotMatch(await popup.content(), /planted|server_error/);
  assert.doesNotMatch(popup.url(), /state=|error=/);
});

/** Clicks in the page's own name once it is ready: the browser opens no window for that. */
function clickWithoutPerson() {
  return page.addInitScript(() => {
    if (!new URLSearchParams(location.search).has('mode') || sessionStorage.getItem('clicked')) return;
    const ready = setInterval(() => {
      const button = document.querySelector('#connect:enabled');
      if (!button) return;
      clearInterval(ready);
      sessionStorage.setItem('clicked', 'yes');
      button.click();
    }, 50);
  });
}

scenario('blocked popup: auto mode goes on as a whole page and comes back', async () => {
  await clickWithoutPerson();
  await page.goto(`${app}/?mode=auto`);
  // Asking the page for anything before it has left would count as a person's touch.
  await page.waitForURL((url) => url.origin === new URL(sandbox).origin);
  await page.waitForSelector('button[value="allow"]');
  assert.equal(person.pages().length, 1);
  await allow(page);
  await page.waitForURL((url) => url.origin === new URL(app).origin);
  await outcome('connected');
  assert.doesNotMatch(page.url(), /flow_id|handle/);
  assert.equal(await page.evaluate(() => sessionStorage.getItem('valetkey:flow')), null);
});

scenario('blocked popup: popup mode says so and leaves the page where it is', async () => {
  await clickWithoutPerson();
  await page.goto(`${app}/?mode=popup`);
  await new Promise((resolve) => { setTimeout(resolve, 1000); });
  await outcome('blocked');
  assert.equal(person.pages().length, 1);
});

scenario('redirect mode: a refusal comes home in the address and is taken out of it', async () => {
  await open('redirect');
  await page.click('#connect');
  await page.waitForSelector('button[value="deny"]');
  await deny(page);
  await page.waitForURL((url) => url.origin === new URL(app).origin);
  await outcome('denied');
  assert.doesNotMatch(page.url(), /flow_id|code=/);
});

scenario('window closed early: only advice, and the next click starts anew', async () => {
  await open();
  const popup = await click();
  await popup.close();
  await page.bringToFront();
  await page.waitForSelector('#outcome[data-phase="maybe_closed"]', { timeout: 20_000 });
  assert.equal(await page.getAttribute('#outcome', 'data-status'), 'waiting');
  const again = await click();
  await allow(again);
  await outcome('connected');
});

for (const coop of ['same-origin', 'same-origin-allow-popups']) {
  scenario(`opener cut by the provider's COOP ${coop}: the relay brings the handle home`, async () => {
    await provider({ authorize: { coop } });
    await open();
    await page.click('#connect');
    const popup = await at((candidate) => candidate.$('button[value="allow"]'));
    await allow(popup);
    await outcome('connected');
    assert.ok(relayVisited(), 'the window went home without the relay, so nothing was cut');
    await vanish();
  });

  scenario(`opener cut by the provider's COOP ${coop}: a refusal comes home too`, async () => {
    await provider({ authorize: { coop } });
    await open();
    await page.click('#connect');
    const popup = await at((candidate) => candidate.$('button[value="deny"]'));
    await deny(popup);
    await outcome('denied');
    await vanish();
  });
}

scenario('second browser profile: a forwarded start link is refused there and works on here', async () => {
  await open();
  const popup = await click();
  const link = person.requests.find((url) => url.startsWith(`${broker}/connect/`));
  const other = await profile(browser);
  const visit = await other.newPage();
  await visit.goto(link);
  await visit.waitForSelector('.code code');
  assert.equal(await visit.textContent('.code code'), 'wrong-browser');
  assert.doesNotMatch(await visit.content(), /flw_|hnd_/);
  await other.close();
  await allow(popup);
  await outcome('connected');
});

scenario('second browser profile: a forwarded callback is refused there and works on here', async () => {
  await open();
  const popup = await click();
  const caught = callbackLink(person);
  await allow(popup);
  const callback = await caught;
  const other = await profile(browser);
  const visit = await other.newPage();
  const answer = await visit.goto(callback);
  assert.equal(answer.status(), 403);
  assert.equal(await visit.textContent('.code code'), 'wrong-browser');
  assert.doesNotMatch(await visit.content(), /handle|flw_/);
  await other.close();
  assert.notEqual(await page.getAttribute('#outcome', 'data-status'), 'connected');
  await popup.goto(callback, { waitUntil: 'commit' });
  await outcome('connected');
});

scenario('without script the start link leads on by a button', async () => {
  await open();
  const caught = startLink(person);
  await page.click('#connect');
  const link = await caught;
  const plain = await profile(browser, { javaScriptEnabled: false });
  const visit = await plain.newPage();
  await visit.goto(link);
  await visit.click('#start button');
  await visit.waitForSelector('button[value="allow"]');
  await plain.close();
});

scenario('looking at a start link changes nothing', async () => {
  await open();
  const caught = startLink(person);
  const [popup] = await Promise.all([page.waitForEvent('popup'), page.click('#connect')]);
  const link = await caught;
  for (let look = 0; look < 3; look += 1) assert.equal((await fetch(link)).status, 200);
  await popup.goto(link);
  await popup.waitForSelector('button[value="allow"]');
});

/** The page of this profile, other than the application's, that has what is asked for. */
async function at(has) {
  for (let left = 100; left > 0; left -= 1) {
    for (const candidate of person.pages()) {
      if (candidate !== page && (await has(candidate).catch(() => null))) return candidate;
    }
    await new Promise((resolve) => { setTimeout(resolve, 100); });
  }
  throw new Error('no window came to the provider');
}

/** Whether the relay page was loaded in this profile. */
function relayVisited() {
  const { origin } = new URL(app);
  return person.requests.some((url) => new URL(url).origin === origin && new URL(url).pathname.includes('relay'));
}

/** Waits until the application's page is the only one left. */
async function vanish() {
  for (let left = 100; left > 0 && person.pages().length > 1; left -= 1) {
    await new Promise((resolve) => { setTimeout(resolve, 100); });
  }
  assert.equal(person.pages().length, 1, 'the window did not close');
}
