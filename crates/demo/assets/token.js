// The token that the backend holds: what may be shown of it, and how long it lives.

const $ = (id) => document.getElementById(id);

let current = null;
let endsAt = 0;
let ticking;
let asking = false;
let renew = null;

/** In the last 30 % of its life a token is worth asking again. */
const NEAR_ITS_END = 0.3;
const ASK_AGAIN_MS = 5000;
let askedAt = 0;

export const held = () => current !== null;
export const fingerprint = () => current?.fingerprint ?? '';

/** Seconds as a person says them. */
function words(seconds) {
  if (seconds <= 0) return 'over';
  const [minutes, rest] = [Math.floor(seconds / 60), Math.floor(seconds % 60)];
  return minutes > 0 ? `${minutes} min ${rest} s` : `${rest} s`;
}

function tick() {
  if (current.expires_in === null) {
    $('expires').textContent = 'not told by the provider';
    $('life').hidden = true;
    return;
  }
  // By this machine's steady clock: a wall clock that is wrong shows no wrong life.
  const left = Math.max(0, (endsAt - performance.now()) / 1000);
  $('expires').textContent = words(left);
  $('life').hidden = false;
  $('life').value = left / current.life;
  const near = left / current.life < NEAR_ITS_END;
  $('life').classList.toggle('near', near);
  if (near && !asking && performance.now() - askedAt > ASK_AGAIN_MS) {
    asking = true;
    askedAt = performance.now();
    renew().finally(() => { asking = false; });
  }
}

/** `again` is called when the token nears its end. */
export function show(answer, again) {
  renew = again;
  // A token seen before keeps the life it was shown with, so that its bar goes on and does not start anew.
  const known = current?.fingerprint === answer.fingerprint ? current.life : 0;
  current = { ...answer, life: Math.max(known, answer.expires_in ?? 0) || 1 };
  endsAt = performance.now() + (answer.expires_in ?? 0) * 1000;
  $('fingerprint').textContent = answer.fingerprint;
  $('scopes').textContent = answer.scopes.join(', ');
  $('generation').textContent = answer.generation === 1
    ? '1: from your consent; one more with each refresh'
    : `${answer.generation}: one more with each consent or refresh`;
  $('token').hidden = false;
  $('badge').textContent = 'Connected';
  $('badge').dataset.tone = 'good';
  clearInterval(ticking);
  tick();
  ticking = setInterval(tick, 250);
}

export function clear() {
  clearInterval(ticking);
  current = null;
  for (const id of ['fingerprint', 'expires', 'scopes', 'generation']) $(id).textContent = '';
  $('token').hidden = true;
  $('called').hidden = true;
  $('badge').textContent = 'Not connected';
  $('badge').dataset.tone = 'none';
}
