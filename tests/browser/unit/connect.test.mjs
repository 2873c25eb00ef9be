import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';

import { connect } from '../../../crates/api/assets/valetkey.js';
import { broadcast, page as newPage, Popup, report, settle } from './page.mjs';

const BROKER = 'https://broker.example';
const SECOND = 1000;
const LIFE = 600 * SECOND;

let page;
let popup;
let calls;
let answers;
let keys = 0;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ['setTimeout', 'Date'], now: Date.parse('2026-01-01T00:00:00Z') });
  page = newPage();
  popup = new Popup();
  page.next = () => popup;
  calls = { start: [], status: [], cancel: [], phases: [] };
  answers = { status: { status: 'pending' } };
});

function options(more = {}) {
  return {
    key: `key-${(keys += 1)}`,
    start: async (input, signal) => {
      calls.start.push({ input, signal });
      const id = `flw_${calls.start.length}`;
      const expires_at = new Date(Date.now() + LIFE).toISOString();
      return { flow_id: id, start_url: `${BROKER}/connect/${id}`, expires_at };
    },
    status: async (flow_id) => {
      calls.status.push(flow_id);
      if (answers.status instanceof Error) throw answers.status;
      return answers.status;
    },
    cancel: async (flow_id) => { calls.cancel.push(flow_id); },
    relayUrl: '/relay',
    onPhase: (phase) => calls.phases.push(phase),
    ...more,
  };
}

/** An attempt whose window is at the provider, and a way to look at its outcome without waiting for it. */
async function started(more) {
  const attempt = connect(options(more));
  const seen = { attempt, outcome: undefined, fault: undefined };
  attempt.result.then((outcome) => { seen.outcome = outcome; }, (fault) => { seen.fault = fault; });
  await settle();
  return seen;
}

async function pass(milliseconds) {
  // In small steps, so that a timer set by an awaited answer gets its turn.
  for (let left = milliseconds; left > 0; left -= 500) {
    mock.timers.tick(Math.min(500, left));
    await settle();
  }
}

test('the window is opened before connect returns', () => {
  connect(options({ start: () => new Promise(() => {}) }));
  assert.equal(page.opens.length, 1);
  assert.equal(page.opens[0][0], 'about:blank');
  assert.match(page.opens[0][2], /width=480,height=640/);
  assert.ok(!page.opens[0][2].includes('noopener'));
});

test('the backend is told the mode, this origin and the whole address of the relay', async () => {
  await started();
  assert.deepEqual(calls.start[0].input, {
    mode: 'popup', origin: 'https://app.example', return_url: 'https://app.example/relay',
  });
  assert.deepEqual(popup.visited, [`${BROKER}/connect/flw_1`]);
  assert.deepEqual(calls.phases, ['at_provider']);
});

test('a message from the window authorizes and is acknowledged', async () => {
  const seen = await started();
  report(page, popup, { flow_id: 'flw_1', handle: 'hnd_a' });
  await settle();
  assert.deepEqual(seen.outcome, { status: 'authorized', flow_id: 'flw_1', handle: 'hnd_a' });
  assert.deepEqual(popup.received, [{ data: { type: 'valetkey-ack', flow_id: 'flw_1' }, origin: BROKER }]);
  assert.equal(seen.attempt.phase, 'done');
});

test('a message from another origin, window, flow or of another kind is ignored', async () => {
  const seen = await started();
  report(page, popup, { flow_id: 'flw_1', handle: 'hnd_a' }, 'https://evil.example');
  report(page, new Popup(), { flow_id: 'flw_1', handle: 'hnd_a' });
  report(page, popup, { flow_id: 'flw_other', handle: 'hnd_a' });
  report(page, popup, { flow_id: 'flw_1', handle: 'hnd_a', type: 'other' });
  page.window.send('message', { origin: BROKER, source: popup, data: null });
  await settle();
  assert.equal(seen.outcome, undefined);
  assert.deepEqual(popup.received, []);
});

test('the relay reaches the attempt where the opener was cut', async () => {
  const seen = await started();
  popup.closed = true;
  assert.deepEqual(broadcast('flw_1', { handle: 'hnd_a' }), [{ type: 'valetkey-ack', flow_id: 'flw_1' }]);
  await settle();
  assert.deepEqual(seen.outcome, { status: 'authorized', flow_id: 'flw_1', handle: 'hnd_a' });
});

test('the first delivery wins and a later one is only acknowledged', async () => {
  const seen = await started();
  report(page, popup, { flow_id: 'flw_1', handle: 'hnd_a' });
  assert.equal(broadcast('flw_1', { handle: 'hnd_b' }).length, 1);
  await settle();
  assert.equal(seen.outcome.handle, 'hnd_a');
});

test('nothing listens any more some seconds after the end', async () => {
  await started();
  report(page, popup, { flow_id: 'flw_1', handle: 'hnd_a' });
  await pass(11 * SECOND);
  for (const type of ['message', 'focus']) assert.equal(page.window.listening(type), 0, type);
  assert.equal(page.document.listening('visibilitychange'), 0);
  assert.equal(page.channels(), 0);
});

test('failure codes that come home become named outcomes', async () => {
  for (const [code, outcome] of [
    ['access-denied', { status: 'denied', flow_id: 'flw_1' }],
    ['access_denied', { status: 'denied', flow_id: 'flw_1' }],
    ['flow-cancelled', { status: 'cancelled', by: 'user' }],
    ['flow-expired', { status: 'expired' }],
    ['issuer-mismatch', { status: 'failed', flow_id: 'flw_1', code: 'issuer-mismatch' }],
    ['<b>not ours</b>', { status: 'failed', flow_id: 'flw_1', code: 'unknown' }],
  ]) {
    calls.start.length = 0;
    const seen = await started();
    report(page, popup, { flow_id: 'flw_1', code });
    await settle();
    assert.deepEqual(seen.outcome, outcome, code);
  }
});

test('what polling sees settles the attempt', async () => {
  for (const [status, outcome] of [
    [{ status: 'connected' }, { status: 'connected', flow_id: 'flw_1' }],
    [{ status: 'failed', code: 'provider-unavailable' }, { status: 'failed', flow_id: 'flw_1', code: 'provider-unavailable' }],
    [{ status: 'failed', code: 'access-denied' }, { status: 'denied', flow_id: 'flw_1' }],
    [{ status: 'cancelled' }, { status: 'cancelled', by: 'user' }],
    [{ status: 'expired' }, { status: 'expired' }],
  ]) {
    calls.start.length = 0;
    answers.status = status;
    const seen = await started();
    await pass(1900);
    assert.equal(seen.outcome, undefined);
    await pass(100);
    assert.deepEqual(seen.outcome, outcome);
  }
});

test('polls come at 2, 3, 5 and 8 seconds and then every 10', async () => {
  await started();
  const at = [];
  for (let second = 1; second <= 40; second += 1) {
    const before = calls.status.length;
    await pass(SECOND);
    if (calls.status.length > before) at.push(second);
  }
  assert.deepEqual(at, [2, 3, 5, 8, 18, 28, 38]);
});

test('a hidden page does not poll and asks at once when it is seen again', async () => {
  await started();
  page.document.visibilityState = 'hidden';
  await pass(30 * SECOND);
  assert.equal(calls.status.length, 0);
  page.document.visibilityState = 'visible';
  page.document.send('visibilitychange');
  assert.equal(calls.status.length, 1);
});

test('a status call that fails is asked again', async () => {
  answers.status = new Error('network');
  const seen = await started();
  await pass(4 * SECOND);
  answers.status = { status: 'connected' };
  await pass(2 * SECOND);
  assert.equal(seen.outcome.status, 'connected');
});

test('a message without a load makes the attempt ask', async () => {
  const seen = await started();
  answers.status = { status: 'connected' };
  report(page, popup, { flow_id: 'flw_1' });
  await settle();
  assert.deepEqual(seen.outcome, { status: 'connected', flow_id: 'flw_1' });
});

test('a closed window is advice: the phase changes, the attempt lives until its handle comes', async () => {
  const seen = await started();
  popup.closed = true;
  page.window.send('focus');
  await pass(2500);
  assert.equal(seen.attempt.phase, 'at_provider');
  await pass(500);
  assert.equal(seen.attempt.phase, 'maybe_closed');
  await pass(300 * SECOND);
  assert.equal(seen.outcome, undefined);
  broadcast('flw_1', { handle: 'hnd_a' });
  await settle();
  assert.equal(seen.outcome.status, 'authorized');
});

test('a window that only seems closed while the person is in it changes nothing', async () => {
  const seen = await started();
  popup.closed = true;
  page.document.focused = false;
  await pass(60 * SECOND);
  assert.equal(seen.attempt.phase, 'at_provider');
});

test('a flow that waits five seconds for a handle has no relay', async () => {
  const seen = await started();
  answers.status = { status: 'awaiting_finish' };
  await pass(2 * SECOND);
  assert.equal(seen.attempt.phase, 'finishing');
  await pass(4500);
  assert.equal(seen.outcome, undefined);
  await pass(500);
  assert.deepEqual(seen.outcome, { status: 'failed', flow_id: 'flw_1', code: 'relay-missing' });
  assert.equal(page.warnings.length, 1);
});

test('a handle that comes within those five seconds is in time', async () => {
  const seen = await started();
  answers.status = { status: 'awaiting_finish' };
  await pass(4 * SECOND);
  broadcast('flw_1', { handle: 'hnd_a' });
  await settle();
  assert.equal(seen.outcome.status, 'authorized');
});

test('the attempt ends with the flow', async () => {
  const seen = await started();
  page.document.visibilityState = 'hidden';
  await pass(LIFE - SECOND);
  assert.equal(seen.outcome, undefined);
  answers.status = { status: 'expired' };
  await pass(SECOND);
  assert.deepEqual(seen.outcome, { status: 'expired' });
});

test('the attempt ends at its expiry when nobody answers', async () => {
  answers.status = new Error('network');
  const seen = await started();
  await pass(LIFE);
  assert.deepEqual(seen.outcome, { status: 'expired' });
});

test('the attempt ends shortly after its expiry when the backend hangs', async () => {
  const seen = await started({ status: () => new Promise(() => {}) });
  await pass(LIFE + 6 * SECOND);
  assert.deepEqual(seen.outcome, { status: 'expired' });
});

test('a clock that runs ahead does not end a flow that the server says lives', async () => {
  const seen = await started({
    start: async () => ({
      flow_id: 'flw_1', start_url: `${BROKER}/connect/x`, expires_at: new Date(Date.now() + 30 * SECOND).toISOString(),
    }),
  });
  await pass(120 * SECOND);
  assert.equal(seen.outcome, undefined);
  answers.status = { status: 'expired' };
  await pass(10 * SECOND);
  assert.deepEqual(seen.outcome, { status: 'expired' });
});

test('a clock that is hours ahead does not end the flow at once', async () => {
  answers.status = new Error('network');
  const seen = await started({
    start: async () => ({ flow_id: 'flw_1', start_url: `${BROKER}/connect/x`, expires_at: '2025-12-31T20:00:00Z' }),
  });
  await pass(60 * SECOND);
  assert.equal(seen.outcome, undefined);
});

test('a blocked window in auto mode becomes a redirect that leaves only the flow id behind', async () => {
  page.next = () => null;
  const seen = await started({ returnUrl: '/back' });
  assert.deepEqual(calls.start[0].input, {
    mode: 'redirect', origin: 'https://app.example', return_url: 'https://app.example/back',
  });
  assert.deepEqual(page.assigned, [`${BROKER}/connect/flw_1`]);
  assert.deepEqual([...page.stored], [['valetkey:flow', 'flw_1']]);
  assert.deepEqual(seen.outcome, { status: 'redirecting' });
});

test('redirect mode opens no window', async () => {
  const seen = await started({ mode: 'redirect' });
  assert.equal(page.opens.length, 0);
  assert.deepEqual(seen.outcome, { status: 'redirecting' });
});

test('a blocked window in popup mode offers an address for a link', async () => {
  page.next = () => null;
  const seen = await started({ mode: 'popup' });
  assert.equal(seen.outcome.status, 'blocked');
  assert.equal(calls.start.length, 0);
  assert.equal(await seen.outcome.continueUrl(), `${BROKER}/connect/flw_1`);
  assert.equal(calls.start[0].input.mode, 'redirect');
  assert.equal(calls.start[0].signal.aborted, false);
  assert.equal(page.stored.get('valetkey:flow'), 'flw_1');
  assert.deepEqual(page.assigned, []);
});

test('a blocked window inside a frame never redirects the frame', async () => {
  page.next = () => null;
  page.window.top = {};
  const seen = await started();
  assert.equal(seen.outcome.status, 'blocked');
});

test('a start that fails closes the window and says why', async () => {
  for (const [error, code] of [
    [new TypeError('fetch failed'), 'start-failed'],
    [Object.assign(new Error('limited'), { code: 'too-many-flows' }), 'too-many-flows'],
    [Object.assign(new Error('odd'), { code: 18 }), 'start-failed'],
  ]) {
    popup = new Popup();
    const seen = await started({ start: async () => { throw error; } });
    assert.deepEqual(seen.outcome, { status: 'failed', code });
    assert.equal(popup.closed, true);
  }
});

test('cancel ends the attempt, closes the window and tells the backend', async () => {
  const seen = await started();
  seen.attempt.cancel();
  seen.attempt.cancel();
  await settle();
  assert.deepEqual(seen.outcome, { status: 'cancelled', by: 'caller' });
  assert.equal(popup.closed, true);
  assert.deepEqual(calls.cancel, ['flw_1']);
});

test('the signal cancels, before and during an attempt', async () => {
  const controller = new AbortController();
  const seen = await started({ signal: controller.signal });
  controller.abort();
  await settle();
  assert.deepEqual(seen.outcome, { status: 'cancelled', by: 'caller' });
  const opens = page.opens.length;
  const late = await started({ signal: controller.signal });
  assert.deepEqual(late.outcome, { status: 'cancelled', by: 'caller' });
  assert.equal(page.opens.length, opens);
});

test('a flow that starts after its attempt was cancelled is called off', async () => {
  let answer;
  const seen = await started({ start: () => new Promise((resolve) => { answer = resolve; }) });
  seen.attempt.cancel();
  answer({ flow_id: 'flw_late', start_url: `${BROKER}/connect/x`, expires_at: new Date().toISOString() });
  await settle();
  assert.deepEqual(calls.cancel, ['flw_late']);
  assert.deepEqual(popup.visited, []);
});

test('a second connect for the same key supersedes the first and keeps their common window', async () => {
  const first = await started({ key: 'same' });
  const second = await started({ key: 'same' });
  assert.deepEqual(first.outcome, { status: 'cancelled', by: 'superseded' });
  assert.equal(popup.closed, false);
  assert.deepEqual(calls.cancel, ['flw_1']);
  assert.equal(page.opens[0][1], page.opens[1][1]);
  report(page, popup, { flow_id: 'flw_1', handle: 'hnd_old' });
  report(page, popup, { flow_id: 'flw_2', handle: 'hnd_new' });
  await settle();
  assert.equal(second.outcome.handle, 'hnd_new');
});

test('attempts for different keys do not touch each other', async () => {
  const first = await started({ key: 'one' });
  await started({ key: 'two' });
  assert.equal(first.outcome, undefined);
});

test('focus brings the window to the front while there is one', async () => {
  const seen = await started();
  assert.equal(seen.attempt.focus(), true);
  assert.equal(popup.focused, 1);
  popup.closed = true;
  assert.equal(seen.attempt.focus(), false);
});

test('only programming faults reject', async () => {
  for (const fault of [
    { start: undefined },
    { status: 'not a function' },
    { mode: 'iframe' },
    { start: async () => ({}) },
    { start: async () => ({ flow_id: 'flw_1', start_url: 'javascript:alert(1)' }) },
    { brokerOrigin: 'https://other.example' },
    { onPhase: () => { throw new Error('broken'); } },
  ]) {
    popup = new Popup();
    const seen = await started(fault);
    assert.ok(seen.fault instanceof Error, JSON.stringify(fault));
    assert.equal(seen.attempt.phase, 'done');
  }
});
