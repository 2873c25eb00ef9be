// What people read.

export const phases = {
  opening: 'Opening a window…',
  at_provider: 'Answer in the window that opened: choose an account and allow it.',
  maybe_closed: 'Window closed? Open it again, or wait: an answer may still come.',
  finishing: 'The provider has answered. Finishing…',
};

const failures = {
  'account-changed': 'Another account was connected before, so Valetkey kept that one. Revoke it first, then connect the other.',
  'user-mismatch': 'Someone else had started this, so Valetkey refused and erased the code. Connect again.',
  'finish-mismatch': 'Someone else had started this, so Valetkey refused and erased the code. Connect again.',
  'handle-expired': 'The application took too long to finish. Connect again.',
  'relay-missing': 'The provider answered, but the answer did not reach this page. Connect again.',
  'provider-unavailable': 'The provider does not answer as it should. Try again in a moment.',
  'client-refused': 'The provider refused this application’s registration.',
  'limit-reached': 'Too many tries in a short time. Wait a moment, then try again.',
  'connection-not-found': 'There is no connection any more. Connect again.',
  'reconnect-required': 'The provider ended the grant. Connect again.',
  'application-stopped': 'The demo has stopped. Start it again with cargo run -p valetkey-demo, then reload.',
  'session-missing': 'This page’s session is over. Reload the page.',
};

/** What to read for a code, and how long to wait if that was said. */
export function failure(code, { retry_after: wait } = {}) {
  const text = failures[code] ?? `That did not work (${code}). Connect again.`;
  return wait ? `${text} Possible again in ${wait} s.` : text;
}

const states = {
  queued: 'queued',
  confirmed: 'confirmed',
  unsupported: 'it has no way to be told',
  superseded: 'not sent, because it would have ended another live connection of the same account',
  failed: 'given up',
};

/** How it stands with the provider, token by token, and whether all of it was confirmed. */
export function revoked(revocations) {
  if (revocations.length === 0) return { text: 'There was nothing to tell it.', good: true };
  const parts = revocations.map(({ token, state }) => `${token} token: ${states[state] ?? state}`).join('; ');
  const good = revocations.every(({ state }) => state === 'confirmed');
  return {
    text: good ? `Told, and confirmed: the ${revocations.map(({ token }) => token).join(' token and the ')} token.`
      : `${parts[0].toUpperCase()}${parts.slice(1)}.`,
    good,
  };
}
