// Connects a user through Valetkey from a click in an application, by way of the application's own backend.
// Load it from Valetkey's /assets/ or copy it. The types, with all explanations, are in valetkey.d.ts.

const TYPE = 'valetkey';
const ACK = 'valetkey-ack';
const STORE = 'valetkey:flow';
const channelName = (flow_id) => `valetkey:${flow_id}`;

const POLL_AT = [2, 3, 5, 8];
const POLL_EVERY = 10;
const SECOND = 1000;
const FALLBACK_LIFE = 600 * SECOND;
const LONGEST_LIFE = 3600 * SECOND;

/** The attempt under way for each key; a newer one supersedes it. */
const live = new Map();

/** Call it inside the click, synchronously: browsers open a window only there. */
export function connect(options) {
  const { key = '', mode = 'auto', signal, relayUrl = '/valetkey/relay', returnUrl = location.pathname } = options;
  for (const name of ['start', 'status']) {
    if (typeof options[name] !== 'function') return faulty(`connect: options.${name} must be a function`);
  }
  if (!['auto', 'popup', 'redirect'].includes(mode)) return faulty('connect: options.mode is auto, popup or redirect');

  const popup = mode === 'redirect' || signal?.aborted ? null : openWindow(key);
  live.get(key)?.supersede(popup);

  const abort = new AbortController();
  let phase = 'opening';
  let flow = null;
  let brokerOrigin = null;
  let channel = null;
  let done = false;
  let asking = false;
  let overdue = false;
  let latest = 0;
  let pollTimer, endTimer, relayTimer, closedTimer;
  let resolve, reject;
  const result = new Promise((yes, no) => { resolve = yes; reject = no; });
  const own = { supersede: (successor) => cancel('superseded', successor) };
  live.set(key, own);

  function say(next) {
    if (phase === next) return;
    phase = next;
    try { options.onPhase?.(phase); } catch (error) { end(null, error); }
  }

  function end(outcome, fault) {
    if (done) return;
    done = true;
    abort.abort();
    for (const timer of [pollTimer, endTimer, relayTimer, closedTimer]) clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
    window.removeEventListener('focus', look);
    document.removeEventListener('visibilitychange', look);
    if (live.get(key) === own) live.delete(key);
    // A window that reports a little later, or twice, is still acknowledged, so that it closes.
    if (flow) setTimeout(hangUp, 10 * SECOND);
    say('done');
    if (fault) reject(fault); else resolve(outcome);
  }

  function hangUp() {
    window.removeEventListener('message', onMessage);
    channel?.close();
  }

  function cancel(by, successor) {
    if (done) return;
    end({ status: 'cancelled', by });
    if (popup !== successor) popup?.close();
    if (flow) withdraw(flow.flow_id);
  }

  function withdraw(flow_id) {
    Promise.resolve(options.cancel?.(flow_id)).catch(() => {});
  }

  const onAbort = () => cancel('caller');

  async function begin(chosen, url, { signal: stop } = abort) {
    const input = { mode: chosen, origin: location.origin, return_url: new URL(url, location.href).href };
    const answer = await options.start(input, stop);
    const origin = startOrigin(answer);
    if (options.brokerOrigin && new URL(options.brokerOrigin).origin !== origin) {
      throw new Fault(`connect: start_url is at ${origin}, options.brokerOrigin is ${options.brokerOrigin}`);
    }
    brokerOrigin = origin;
    return answer;
  }

  function beginFailed(error) {
    if (done) return;
    popup?.close();
    if (error instanceof Fault) end(null, error);
    else end({ status: 'failed', code: tidyCode(error?.code, 'start-failed') });
  }

  async function viaPopup() {
    let answer;
    try { answer = await begin('popup', relayUrl); } catch (error) { return beginFailed(error); }
    if (done) return withdraw(answer.flow_id);
    flow = answer;
    channel = new BroadcastChannel(channelName(flow.flow_id));
    channel.onmessage = (event) => receive(event.data, (ack) => channel.postMessage(ack));
    window.addEventListener('message', onMessage);
    window.addEventListener('focus', look);
    document.addEventListener('visibilitychange', look);
    popup.location.replace(flow.start_url);
    say('at_provider');
    if (done) return;
    const life = Date.parse(flow.expires_at) - Date.now();
    latest = Date.now() + LONGEST_LIFE;
    endTimer = setTimeout(lastLook, life > 0 && life <= LONGEST_LIFE ? life : FALLBACK_LIFE);
    schedule(0);
  }

  async function viaRedirect() {
    try {
      const answer = await begin('redirect', returnUrl);
      if (done) return withdraw(answer.flow_id);
      sessionStorage.setItem(STORE, answer.flow_id);
      end({ status: 'redirecting' });
      location.assign(answer.start_url);
    } catch (error) { beginFailed(error); }
  }

  /** For a link of the application's own, where the browser opens no window. */
  async function continueUrl() {
    const answer = await begin('redirect', returnUrl, new AbortController());
    sessionStorage.setItem(STORE, answer.flow_id);
    return answer.start_url;
  }

  function onMessage(event) {
    if (event.origin !== brokerOrigin || event.source !== popup) return;
    receive(event.data, (ack) => event.source.postMessage(ack, brokerOrigin));
  }

  /** First delivery wins; the rest is only acknowledged. */
  function receive(data, reply) {
    if (data?.type !== TYPE || data.flow_id !== flow.flow_id) return;
    reply({ type: ACK, flow_id: flow.flow_id });
    if (typeof data.handle === 'string') end({ status: 'authorized', flow_id: flow.flow_id, handle: data.handle });
    else if (typeof data.code === 'string') end(fromCode(flow.flow_id, data.code));
    else poll();
  }

  function schedule(step) {
    const wait = step < POLL_AT.length ? POLL_AT[step] - (POLL_AT[step - 1] ?? 0) : POLL_EVERY;
    pollTimer = setTimeout(() => { look(); if (!done) schedule(step + 1); }, wait * SECOND);
  }

  function look() {
    if (document.visibilityState === 'hidden') return;
    poll();
    // `closed` is advice only: a provider's opener policy makes it read true while the window is open.
    if (popup.closed && document.hasFocus()) {
      closedTimer ??= setTimeout(() => {
        closedTimer = undefined;
        if (popup.closed && phase === 'at_provider') say('maybe_closed');
      }, 3 * SECOND);
    }
  }

  async function ask() {
    try { return await options.status(flow.flow_id, abort.signal); } catch { return null; }
  }

  async function poll() {
    if (asking || done) return;
    asking = true;
    const seen = await ask();
    asking = false;
    if (!done) learn(seen);
  }

  function learn(seen) {
    const { flow_id } = flow;
    switch (seen?.status) {
      case 'connected': return end({ status: 'connected', flow_id });
      case 'failed': return end(fromCode(flow_id, seen.code));
      case 'cancelled': return end({ status: 'cancelled', by: 'user' });
      case 'expired': return end({ status: 'expired' });
      case 'finishing': return say('finishing');
      case 'awaiting_finish': return awaitHandle();
    }
  }

  /** The provider has answered, so the handle must arrive here within seconds, or nothing brings it. */
  function awaitHandle() {
    say('finishing');
    relayTimer ??= setTimeout(() => { overdue = true; look(); }, 5 * SECOND);
    if (!overdue) return;
    console.warn(`valetkey: no handle arrived; does the page at ${relayUrl} call relay()?`);
    end({ status: 'failed', flow_id: flow.flow_id, code: 'relay-missing' });
  }

  /** The clock that counts is the server's: while it says the flow lives, a fast clock here ends nothing. */
  async function lastLook() {
    const patience = new Promise((out) => { endTimer = setTimeout(out, 5 * SECOND, null); });
    const seen = await Promise.race([ask(), patience]);
    clearTimeout(endTimer);
    if (done) return;
    learn(seen);
    if (done) return;
    if (seen && Date.now() < latest) endTimer = setTimeout(lastLook, POLL_EVERY * SECOND);
    else end({ status: 'expired' });
  }

  signal?.addEventListener('abort', onAbort);
  if (signal?.aborted) onAbort();
  else if (popup && !popup.closed) viaPopup();
  else if (mode === 'popup' || (mode === 'auto' && window.top !== window)) end({ status: 'blocked', continueUrl });
  else viaRedirect();

  return {
    result,
    get phase() { return phase; },
    focus() {
      if (done || !popup || popup.closed) return false;
      popup.focus();
      return true;
    },
    cancel: onAbort,
  };
}

/** The whole job of the relay page: hands what its address carries to the attempt in the other window. */
export function relay() {
  const carried = new URLSearchParams(location.hash.slice(1));
  history.replaceState(null, '', location.pathname + location.search);
  const message = { type: TYPE };
  for (const name of ['flow_id', 'handle', 'code']) if (carried.has(name)) message[name] = carried.get(name);
  if (!message.flow_id) return show('Return to the application');

  const channel = new BroadcastChannel(channelName(message.flow_id));
  const deaf = setTimeout(() => {
    channel.close();
    show('Return to the application');
  }, 3 * SECOND);
  channel.onmessage = ({ data }) => {
    if (data?.type !== ACK || data.flow_id !== message.flow_id) return;
    clearTimeout(deaf);
    channel.close();
    show('You can close this window');
    window.close();
  };
  channel.postMessage(message);
}

/** Redirect mode, on the page that `returnUrl` names: the outcome of the flow this tab left for, else null. */
export function resume() {
  const url = new URL(location.href);
  const [flow_id, handle, code] = ['flow_id', 'handle', 'code'].map((name) => url.searchParams.get(name));
  if (!flow_id) return null;
  for (const name of ['flow_id', 'handle', 'code']) url.searchParams.delete(name);
  history.replaceState(history.state, '', url.href);
  try {
    if (sessionStorage.getItem(STORE) !== flow_id) return null;
    sessionStorage.removeItem(STORE);
  } catch { return null; }
  if (handle) return { status: 'authorized', flow_id, handle };
  return code ? fromCode(flow_id, code) : { status: 'connected', flow_id };
}

class Fault extends TypeError {}

function faulty(message) {
  return { result: Promise.reject(new Fault(message)), phase: 'done', focus: () => false, cancel() {} };
}

function openWindow(key) {
  const [width, height] = [480, 640];
  const left = Math.max(0, Math.round(window.screenX + (window.outerWidth - width) / 2));
  const top = Math.max(0, Math.round(window.screenY + (window.outerHeight - height) / 2));
  return window.open('about:blank', `valetkey:${key}`, `popup,width=${width},height=${height},left=${left},top=${top}`);
}

function startOrigin(answer) {
  try {
    const { protocol, origin } = new URL(answer.start_url);
    if (typeof answer.flow_id === 'string' && /^https?:$/.test(protocol)) return origin;
  } catch { /* not an address */ }
  throw new Fault('connect: options.start must answer { flow_id, start_url, expires_at }');
}

/** Codes may come from an address, so only what looks like one of ours is passed on, in one spelling. */
const tidyCode = (code, otherwise) =>
  typeof code === 'string' && /^[a-z0-9_-]{1,64}$/.test(code) ? code.replaceAll('_', '-') : otherwise;

function fromCode(flow_id, code) {
  const known = tidyCode(code, 'unknown');
  switch (known) {
    case 'access-denied': return { status: 'denied', flow_id };
    case 'flow-cancelled': return { status: 'cancelled', by: 'user' };
    case 'flow-expired': return { status: 'expired' };
    default: return { status: 'failed', flow_id, code: known };
  }
}

function show(words) {
  const line = document.createElement('p');
  line.setAttribute('role', 'status');
  line.textContent = words;
  document.body.replaceChildren(line);
}
