// The application's page. Everything it knows comes from its own backend; Valetkey's script opens the window and hears
// how it ended.
import { connect, resume } from '{{broker}}/assets/valetkey.js';
import { clear, log, shorten } from '/log.js';
import * as token from '/token.js';
import { failure, phases, revoked } from '/texts.js';

const $ = (id) => document.getElementById(id);
const VIEW = 'demo:view';

/** The attempt that this page waits for; an older one reports to nobody. */
let attempt = null;
/** Goes on without a window, where the browser opened none. */
let offered = null;
let busy = false;

const params = () => new URLSearchParams(location.search);
const connector = () => (params().get('connector') === 'confirm' ? 'confirm' : 'finish');
const mode = () => (['popup', 'redirect'].includes(params().get('mode')) ? params().get('mode') : 'auto');

/** Asks the backend, and writes down which calls it made to Valetkey. Rejects with the code of a failure. */
async function ask(path, body, { quiet = false } = {}) {
  let response;
  try {
    const method = body === undefined ? 'GET' : 'POST';
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    response = await fetch(`/api/${path}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw Object.assign(new Error('the demo has stopped'), { code: 'application-stopped' });
  }
  const { calls = [], ...answer } = await response.json();
  if (!quiet) log.calls(calls);
  if (response.ok) return Object.assign(answer, { calls });
  throw Object.assign(new Error(answer.title), answer, { calls });
}

function tell(status, text, phase = '') {
  const line = $('outcome');
  line.textContent = text;
  line.dataset.phase = phase;
  line.dataset.status = status;
}

/** What can be done now. */
function offer({ waiting = false } = {}) {
  const connected = token.held();
  const cancelled = document.activeElement === $('cancel') && !waiting;
  $('connect').disabled = false;
  $('connect').classList.toggle('plain', offered !== null || (connected && !waiting));
  $('connect').textContent = waiting ? 'Open the window again' : connected ? 'Connect again' : 'Connect';
  $('cancel').hidden = !waiting;
  $('continue').hidden = offered === null;
  $('users').disabled = waiting;
  if (cancelled) $('connect').focus();
}

function show(answer) {
  token.show(answer, renew);
  $('told').hidden = true;
  $('called').hidden = true;
}

const flow = {
  start: (input) => ask(`connectors/${connector()}/flows`, input),
  finish: (flow_id, handle) => ask(`flows/${flow_id}/finish`, { handle }),
  cancel: (flow_id) => ask(`flows/${flow_id}/cancel`, {}),
  seen: '',
  async status(flow_id) {
    const answer = await ask(`flows/${flow_id}`, undefined, { quiet: true });
    // Only what is new is worth a line.
    if (flow.seen !== answer.status) {
      log.step('application', `The flow is now “${answer.status.replaceAll('_', ' ')}”.`);
      log.calls(answer.calls);
    }
    flow.seen = answer.status;
    return answer;
  },
};

function begin() {
  offered = null;
  flow.seen = '';
  $('told').hidden = true;
  log.step('person', 'You clicked Connect.');
  if (mode() === 'redirect') sessionStorage.setItem(VIEW, location.search);
  const mine = connect({
    start: flow.start,
    status: flow.status,
    cancel: flow.cancel,
    mode: mode(),
    key: connector(),
    relayUrl: '/relay',
    returnUrl: '/return',
    onPhase(phase) {
      if (attempt !== null && attempt !== mine) return;
      if (phase === 'done') return;
      tell('waiting', phases[phase], phase);
      if (phase === 'at_provider') log.step('browser', 'A window is open at Valetkey’s start link, and goes on to the provider.');
      if (phase === 'maybe_closed') log.step('browser', 'The window seems to be closed. That is advice only, so the page keeps waiting.');
    },
  });
  attempt = mine;
  tell('waiting', phases.opening, 'opening');
  offer({ waiting: true });
  mine.result.then((outcome) => { if (attempt === mine) return end(outcome); });
}

/** How an attempt ended, in a window or on the way back of the whole page. */
async function end(outcome) {
  attempt = null;
  switch (outcome.status) {
    case 'redirecting':
      log.step('browser', 'No window: this page leaves for the provider.');
      return;
    case 'authorized':
      log.step('browser', 'The window brought a one-use handle. The backend presents it for its signed-in user.');
      tell('waiting', phases.finishing, 'finishing');
      return finish(() => flow.finish(outcome.flow_id, outcome.handle));
    case 'connected':
      log.step('browser', 'Valetkey says that the connection is there.');
      return finish(() => {});
    case 'denied':
      log.step('provider', 'You said no at the provider. Nothing is stored.', 'bad');
      tell('denied', 'You said no at the provider. Nothing was stored, and you can connect whenever you like.');
      break;
    case 'cancelled':
      log.step('application', outcome.by === 'caller' ? 'You cancelled here.' : 'You cancelled in the window.');
      tell('cancelled', 'Cancelled. Nothing was stored.');
      break;
    case 'expired':
      log.step('application', 'The flow’s ten minutes are over.', 'bad');
      tell('expired', 'The ten minutes for this are over. Connect again to start anew.');
      break;
    case 'blocked':
      log.step('browser', 'The browser opened no window.', 'bad');
      tell('blocked', 'Your browser opened no window. Go on in this tab instead; you will come back here.');
      offered = outcome.continueUrl;
      break;
    default:
      log.step('application', `It ended with the code ${outcome.code}.`, 'bad');
      tell('failed', failure(outcome.code));
  }
  offer();
}

async function finish(redeem) {
  try {
    await redeem();
    log.step('application', 'The connection is stored, sealed. The backend asks for a token, as any connector would.');
    show(await ask(`connectors/${connector()}/token`, {}));
    log.step('application', 'Here is an access token with its remaining life.', 'good');
    tell('connected', 'Connected. The application has an access token.');
  } catch (error) {
    failed(error);
  }
  offer();
}

function failed(error) {
  const code = error.flow_code ?? error.code ?? 'unknown';
  log.step('application', `It ended with the code ${code}.`, 'bad');
  if (['connection-not-found', 'reconnect-required', 'application-stopped'].includes(code)) token.clear();
  tell('failed', failure(code, error));
}

/** One thing at a time. The buttons keep the focus, so they are not disabled meanwhile: they only say so. */
async function doing(work) {
  if (busy || attempt !== null) return;
  sleep(true);
  try {
    await work();
  } catch (error) {
    failed(error);
  }
  sleep(false);
  if (attempt === null) offer();
}

function sleep(asleep) {
  busy = asleep;
  for (const id of ['call', 'refresh', 'revoke']) $(id).setAttribute('aria-disabled', String(asleep));
}

/** The token is near its end. A connector just asks again: Valetkey refreshes early, so a fresh one is waiting. */
async function renew() {
  try {
    const answer = await ask(`connectors/${connector()}/token`, {}, { quiet: true });
    const fresh = answer.fingerprint !== token.fingerprint();
    if (fresh) {
      log.step('application', 'The token was near its end, so the backend asked again and got a fresh one.', 'good');
      log.calls(answer.calls);
    }
    token.show(answer, renew);
    return fresh;
  } catch (error) {
    if (error.code === 'connection-not-found' || error.code === 'reconnect-required') {
      failed(error);
      offer();
    }
    return false;
  }
}

const call = () => doing(async () => {
  log.step('application', 'The backend fetches the token and calls the provider’s API with it.');
  const answer = await ask(`connectors/${connector()}/call`, {});
  const good = answer.status === 200;
  const text = good
    ? `200: this is ${answer.subject}’s token, good for ${answer.scopes.join(', ')}.`
    : `The API answered ${answer.status}.`;
  log.step('provider', text, good ? 'good' : 'bad');
  $('called').textContent = text;
  $('called').hidden = false;
  tell('connected', good ? 'The provider’s API accepted the token.' : `The provider’s API answered ${answer.status}.`);
});

const refresh = () => doing(async () => {
  const rejected = token.fingerprint();
  log.step('application', `The backend says that the token ${shorten(rejected)} was refused.`);
  show(await ask(`connectors/${connector()}/token`, { rejected }));
  log.step('application', `Valetkey refreshed. The token is ${shorten(token.fingerprint())} now.`, 'good');
  tell('connected', 'A new token is here. The old refresh token was used exactly once.');
});

const revoke = () => doing(async () => {
  log.step('person', 'You clicked Revoke.');
  const key = connector();
  const answer = await ask(`connectors/${key}/disconnect`, {});
  const focused = $('token').contains(document.activeElement);
  token.clear();
  log.step('application', 'The grant has ended in Valetkey. From now on no caller gets a token.', 'good');
  tell('revoked', 'Revoked. The provider is being told.');
  $('told').hidden = false;
  $('told-here').textContent = 'Ended at once; nobody gets a token from now on.';
  $('told-there').textContent = revoked(answer.revocations).text;
  offer();
  if (focused) $('connect').focus();
  follow(key, answer).catch(() => {});
});

/** Waits until the provider has been told, unless something else is done meanwhile. */
async function follow(key, { connection_id: id }) {
  const moved = () => attempt !== null || $('told').hidden;
  let status = 'revoking';
  for (let tries = 0; tries < 60 && status === 'revoking'; tries += 1) {
    await new Promise((resolve) => { setTimeout(resolve, 400); });
    if (moved()) return;
    ({ status } = await ask(`connections/${id}`, undefined, { quiet: true }));
  }
  // Said again, it changes nothing and tells the outcome, token by token.
  if (moved() || status !== 'revoked') return;
  const answer = await ask(`connectors/${key}/disconnect`, {}, { quiet: true });
  if (moved()) return;
  const { text, good } = revoked(answer.revocations);
  $('told-there').textContent = text;
  log.step('provider', text, good ? 'good' : '');
  log.calls(answer.calls);
  tell('revoked', good ? 'Revoked, here and at the provider.' : 'Revoked here.');
}

/** What there is before anyone clicks. */
async function load() {
  const state = await ask(`connectors/${connector()}`);
  for (const input of $('users').querySelectorAll('input')) input.checked = input.value === state.user;
  $('connector').textContent = state.name;
  for (const link of document.querySelectorAll('.ways a')) {
    const chosen = link.dataset.connector === connector()
      && link.dataset.mode === (mode() === 'auto' ? 'popup' : mode());
    if (chosen) link.setAttribute('aria-current', 'true');
    else link.removeAttribute('aria-current');
  }
  if (state.token) {
    show(state.token);
    tell('idle', `${state.user_name} is connected since earlier. Use the token, or take it back.`);
  } else {
    token.clear();
    $('told').hidden = true;
    tell('idle', `${state.user_name} has not connected yet. Connect, and allow it in the window.`);
  }
}

async function switchUser(event) {
  await doing(async () => {
    await ask('user', { user: event.target.value });
    log.step('person', `You are ${event.target.dataset.name} now. A grant belongs to one user, so this one has its own.`);
    await load();
  });
}

async function main() {
  // Before anything else: what came home in the address is taken out of it.
  const returned = resume();
  if (location.pathname === '/return') {
    history.replaceState(null, '', `/${sessionStorage.getItem(VIEW) ?? ''}`);
    sessionStorage.removeItem(VIEW);
  }
  try {
    await load();
  } catch (error) {
    failed(error);
    return;
  }
  offer();
  if (returned) {
    log.step('browser', 'This page left for the provider and came back.');
    offer({ waiting: true });
    await end(returned);
  }
}

$('connect').addEventListener('click', begin);
$('cancel').addEventListener('click', () => attempt?.cancel());
$('continue').addEventListener('click', () => doing(async () => {
  sessionStorage.setItem(VIEW, location.search);
  location.assign(await offered());
}));
$('call').addEventListener('click', call);
$('refresh').addEventListener('click', refresh);
$('revoke').addEventListener('click', revoke);
$('clear').addEventListener('click', clear);
$('users').addEventListener('change', switchUser);
main();
