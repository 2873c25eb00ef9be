import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';

import { relay, resume } from '../../../crates/api/assets/valetkey.js';
import { page as newPage } from './page.mjs';

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ['setTimeout'] });
});

/** An attempt in another window of the application. */
function listener(flow_id, answer = true) {
  const heard = [];
  const channel = new BroadcastChannel(`valetkey:${flow_id}`);
  channel.onmessage = ({ data }) => {
    heard.push(data);
    if (answer) channel.postMessage({ type: 'valetkey-ack', flow_id });
  };
  return heard;
}

test('the relay drops the fragment before it broadcasts, then closes itself', () => {
  const page = newPage('https://app.example/relay?x=1#flow_id=flw_1&handle=hnd_a');
  const heard = listener('flw_1');
  let replacedFirst;
  const { replaceState } = history;
  history.replaceState = (...args) => { replacedFirst = heard.length === 0; replaceState(...args); };
  relay();
  assert.equal(replacedFirst, true);
  assert.deepEqual(page.replaced, ['/relay?x=1']);
  assert.deepEqual(heard, [{ type: 'valetkey', flow_id: 'flw_1', handle: 'hnd_a' }]);
  assert.equal(page.closed, 1);
  mock.timers.tick(5000);
  assert.equal(page.text, 'You can close this window');
});

test('the relay carries a code as well', () => {
  newPage('https://app.example/relay#flow_id=flw_1&code=access-denied');
  const heard = listener('flw_1');
  relay();
  assert.deepEqual(heard, [{ type: 'valetkey', flow_id: 'flw_1', code: 'access-denied' }]);
});

test('a relay that nobody waits for says where to go and keeps nothing', () => {
  const page = newPage('https://app.example/relay#flow_id=flw_1&handle=hnd_a');
  relay();
  assert.equal(page.text, null);
  mock.timers.tick(3000);
  assert.equal(page.text, 'Return to the application');
  assert.equal(page.closed, 0);
  assert.equal(page.stored.size, 0);
  assert.equal(page.channels(), 0);
});

test('an acknowledgement for another flow does not close the relay', () => {
  const page = newPage('https://app.example/relay#flow_id=flw_1&handle=hnd_a');
  const channel = new BroadcastChannel('valetkey:flw_1');
  channel.onmessage = () => channel.postMessage({ type: 'valetkey-ack', flow_id: 'flw_2' });
  relay();
  assert.equal(page.closed, 0);
});

test('a relay opened by hand says where to go', () => {
  const page = newPage('https://app.example/relay');
  relay();
  assert.equal(page.text, 'Return to the application');
});

test('resume answers the outcome of the flow that this tab left for, once', () => {
  for (const [query, outcome] of [
    ['handle=hnd_a', { status: 'authorized', flow_id: 'flw_1', handle: 'hnd_a' }],
    ['code=access-denied', { status: 'denied', flow_id: 'flw_1' }],
    ['code=provider-unavailable', { status: 'failed', flow_id: 'flw_1', code: 'provider-unavailable' }],
    ['', { status: 'connected', flow_id: 'flw_1' }],
  ]) {
    const page = newPage(`https://app.example/back?tab=2&flow_id=flw_1&${query}#part`);
    page.stored.set('valetkey:flow', 'flw_1');
    assert.deepEqual(resume(), outcome, query);
    assert.deepEqual(page.replaced, ['https://app.example/back?tab=2#part']);
    assert.equal(page.stored.size, 0);
    assert.equal(resume(), null);
  }
});

test("resume refuses another flow's handle, drops it, and keeps waiting for its own", () => {
  const page = newPage('https://app.example/back?flow_id=flw_forged&handle=hnd_x');
  page.stored.set('valetkey:flow', 'flw_1');
  assert.equal(resume(), null);
  assert.deepEqual(page.replaced, ['https://app.example/back']);
  assert.equal(page.stored.get('valetkey:flow'), 'flw_1');
});

test('resume touches nothing on a page that no flow came back to', () => {
  const page = newPage('https://app.example/back?code=promo&handle=someone');
  assert.equal(resume(), null);
  assert.deepEqual(page.replaced, []);
});
