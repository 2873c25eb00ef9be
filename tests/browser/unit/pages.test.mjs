import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';

// The scripts of our own pages. Each does its work when it is loaded, so each test loads it anew.

const ORIGIN = 'https://app.example';
const RELAY = `${ORIGIN}/relay#flow_id=flw_1&handle=hnd_a`;
let loads = 0;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ['setTimeout'] });
});

class Target {
  #listeners = new Map();
  addEventListener(type, listener) {
    this.#listeners.set(type, [...(this.#listeners.get(type) ?? []), listener]);
  }
  removeEventListener(type, listener) {
    this.#listeners.set(type, this.#listeners.get(type).filter((other) => other !== listener));
  }
  send(type, event = {}) {
    for (const listener of this.#listeners.get(type) ?? []) listener(event);
  }
}

/** Puts a page of these elements under a script and loads it. */
async function load(script, elements, opener) {
  const window = Object.assign(new Target(), { opener, closed: 0, close: () => { window.closed += 1; } });
  const document = Object.assign(new Target(), {
    visibilityState: 'visible',
    getElementById: (id) => elements[id],
  });
  const location = { pathname: '/oauth/callback/ctr_1', gone: [], replace: (target) => location.gone.push(target) };
  const history = { replaced: [], replaceState: (_state, _title, target) => history.replaced.push(target) };
  const [addEventListener, removeEventListener] =
    [window.addEventListener.bind(window), window.removeEventListener.bind(window)];
  Object.assign(globalThis, { window, document, location, history, addEventListener, removeEventListener });
  loads += 1;
  await import(`../../../crates/api/assets/${script}.js?load=${loads}`);
  return { window, document, location, history, ...elements };
}

/** The result page of a popup, with the window that opened it. */
async function result(dataset = {}, opened = true) {
  const opener = opened ? { heard: [], postMessage: (data, target) => opener.heard.push({ data, target }) } : null;
  const link = Object.assign(new Target(), { href: RELAY });
  const home = { dataset: { origin: ORIGIN, flow: 'flw_1', handle: 'hnd_a', told: 'Connected', ...dataset } };
  return { opener, ...(await load('result', { home, return: link, status: { textContent: '' } }, opener)) };
}

const ack = (page, more = {}) =>
  ({ origin: ORIGIN, source: page.opener, data: { type: 'valetkey-ack', flow_id: 'flw_1' }, ...more });

test('the result is posted once, to the origin that was named at start and to no other', async () => {
  const page = await result();
  const data = { type: 'valetkey', flow_id: 'flw_1', handle: 'hnd_a' };
  assert.deepEqual(page.opener.heard, [{ data, target: ORIGIN }]);
  assert.deepEqual(page.history.replaced, ['/oauth/callback/ctr_1']);
});

test('an acknowledgement of another origin, window, flow or kind is none: the page goes on to the relay', async () => {
  for (const wrong of [
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { origin: `${ORIGIN}.evil.example` },
    { source: {} },
    { source: null },
    { data: { type: 'valetkey-ack', flow_id: 'flw_2' } },
    { data: { type: 'valetkey', flow_id: 'flw_1' } },
    { data: null },
  ]) {
    const page = await result();
    page.window.send('message', ack(page, wrong));
    assert.equal(page.status.textContent, '', JSON.stringify(wrong));
    mock.timers.tick(799);
    assert.deepEqual(page.location.gone, []);
    mock.timers.tick(1);
    assert.deepEqual(page.location.gone, [RELAY], JSON.stringify(wrong));
    mock.timers.tick(10_000);
    assert.equal(page.window.closed, 0);
  }
});

test('the acknowledgement of the one who opened the window ends it', async () => {
  const page = await result();
  page.window.send('message', ack(page));
  assert.equal(page.status.textContent, 'Connected');
  mock.timers.tick(10_000);
  assert.deepEqual(page.location.gone, []);
  assert.equal(page.window.closed, 1);
});

test('without an opener the page goes to the relay at once, and stays where it has to be read', async () => {
  const gone = await result({}, false);
  assert.deepEqual(gone.location.gone, [RELAY]);
  const read = await result({ handle: undefined, code: 'access-denied', stay: '' }, false);
  mock.timers.tick(10_000);
  assert.deepEqual(read.location.gone, []);
});

/** The confirm page. */
async function confirm() {
  const form = new Target();
  return load('confirm', {
    confirm: { disabled: true, form },
    status: { textContent: '', dataset: { awake: 'Ready' } },
  });
}

test('the confirm button sleeps until its page was in sight for a whole second', async () => {
  const page = await confirm();
  mock.timers.tick(999);
  assert.equal(page.confirm.disabled, true);
  mock.timers.tick(1);
  assert.equal(page.confirm.disabled, false);
});

test('a page that is out of sight or out of focus puts the button to sleep, and the second begins anew', async () => {
  for (const [away, back] of [['blur', 'focus'], ['hidden', 'visible']]) {
    const page = await confirm();
    mock.timers.tick(1000);
    const see = (state) => {
      if (['hidden', 'visible'].includes(state)) page.document.visibilityState = state;
      (state === 'blur' || state === 'focus' ? page.window : page.document)
        .send(state === 'blur' || state === 'focus' ? state : 'visibilitychange');
    };
    see(away);
    assert.equal(page.confirm.disabled, true, away);
    mock.timers.tick(5000);
    assert.equal(page.confirm.disabled, true, `${away}: it sleeps on`);
    see(back);
    mock.timers.tick(999);
    assert.equal(page.confirm.disabled, true, `${back}: the second begins anew`);
    mock.timers.tick(1);
    assert.equal(page.confirm.disabled, false, back);
  }
});

test('the confirm form is sent once', async () => {
  const page = await confirm();
  mock.timers.tick(1000);
  let prevented = 0;
  const submit = () => page.confirm.form.send('submit', { preventDefault: () => { prevented += 1; } });
  submit();
  submit();
  assert.equal(prevented, 1);
});

/** The start page, whose POST is answered like this. */
async function start(answer) {
  const asked = [];
  globalThis.fetch = async (url, options) => {
    asked.push({ url, ...options });
    return answer;
  };
  const form = { action: 'https://connect.example/connect/t', sent: 0, submit: () => { form.sent += 1; } };
  const alert = { textContent: '', dataset: { failed: 'It did not work' } };
  const page = await load('connect', { start: form, alert });
  for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
  return { asked, ...page };
}

test('the start page asks its own address, follows no redirect, and goes on to a web address alone', async () => {
  const answer = (location) => ({ ok: true, status: 200, json: async () => ({ location }) });
  const page = await start(answer('https://idp.example/authorize?state=s'));
  assert.equal(page.asked[0].url, 'https://connect.example/connect/t');
  assert.deepEqual([page.asked[0].method, page.asked[0].redirect], ['POST', 'error']);
  assert.deepEqual(page.location.gone, ['https://idp.example/authorize?state=s']);
  for (const bad of ['javascript:alert(1)', 'data:text/html,x', 'nothing', undefined]) {
    const page = await start(answer(bad));
    assert.deepEqual(page.location.gone, [], bad);
    assert.equal(page.alert.textContent, 'It did not work');
  }
});

test('a refused start shows the page of its refusal', async () => {
  const page = await start({ ok: false, status: 403, json: async () => ({}) });
  assert.equal(page.start.sent, 1);
  assert.deepEqual(page.location.gone, []);
});
