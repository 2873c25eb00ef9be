// What happened, step by step: who did it, and which calls the backend made to Valetkey.

const list = document.getElementById('log');
const scroll = list.parentElement;
const LONGEST = 200;

/** Ids and fingerprints as people compare them: the beginning is enough. */
export const shorten = (text) => text
  .replace(/\b(ctr|flw|cxn|rev)_(\w{4})\w+/g, '$1_$2…')
  .replace(/^([\w+/]{8})[\w+/=]{20,}$/, '$1…');

const time = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

const names = { person: 'You', browser: 'Browser', application: 'Application', provider: 'Provider' };

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function settle() {
  document.getElementById('nothing').hidden = list.children.length > 0;
  document.getElementById('clear').disabled = list.children.length === 0;
  scroll.scrollTop = scroll.scrollHeight;
}

export const log = {
  /** `who`: person, browser, application or provider. */
  step(who, text, tone = '') {
    const item = element('li', 'step');
    item.dataset.tone = tone;
    const head = element('p', 'who', names[who]);
    const at = element('time', '', time.format(Date.now()));
    head.append(' ', at);
    item.append(head, element('p', 'text', text), element('ul', 'calls'));
    list.append(item);
    while (list.children.length > LONGEST) list.firstElementChild.remove();
    settle();
  },
  /** The calls belong to the step before them. */
  calls(calls) {
    const into = list.lastElementChild?.querySelector('.calls');
    for (const { method, path, status } of into ? calls : []) {
      const item = element('li');
      item.append(element('code', '', `${method} ${shorten(path)}`), ' ', element('b', '', String(status)));
      into.append(item);
    }
    settle();
  },
};

export function clear() {
  list.replaceChildren();
  settle();
  scroll.focus();
}
