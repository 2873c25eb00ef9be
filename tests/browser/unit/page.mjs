// A window that is not one: what valetkey.js touches of a browser, under the test's control.

class Target {
  #listeners = new Map();
  addEventListener(type, listener) {
    this.#of(type).add(listener);
  }
  removeEventListener(type, listener) {
    this.#of(type).delete(listener);
  }
  send(type, event = {}) {
    for (const listener of [...this.#of(type)]) listener(event);
  }
  listening(type) {
    return this.#of(type).size;
  }
  #of(type) {
    if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
    return this.#listeners.get(type);
  }
}

/** The window that `window.open` answers. */
export class Popup {
  closed = false;
  focused = 0;
  visited = [];
  received = [];
  location = { replace: (url) => this.visited.push(url) };
  close() {
    this.closed = true;
  }
  focus() {
    this.focused += 1;
  }
  postMessage(data, origin) {
    this.received.push({ data, origin });
  }
}

/** Delivers to every other channel of the name, at once. */
class Channel {
  static open = new Map();
  onmessage = null;
  constructor(name) {
    this.name = name;
    if (!Channel.open.has(name)) Channel.open.set(name, new Set());
    Channel.open.get(name).add(this);
  }
  postMessage(data) {
    for (const other of [...Channel.open.get(this.name)]) if (other !== this) other.onmessage?.({ data });
  }
  close() {
    Channel.open.get(this.name).delete(this);
  }
}

/** Puts a page at `url` under the module and answers what a test drives and reads. */
export function page(url = 'https://app.example/settings') {
  const at = new URL(url);
  const page = {
    opens: [],
    next: () => new Popup(),
    assigned: [],
    replaced: [],
    closed: 0,
    text: null,
    stored: new Map(),
    channels: () => [...Channel.open.values()].reduce((sum, set) => sum + set.size, 0),
    warnings: [],
  };
  Channel.open.clear();

  const window = Object.assign(new Target(), {
    screenX: 0,
    screenY: 0,
    outerWidth: 1280,
    outerHeight: 900,
    open(...args) {
      page.opens.push(args);
      return page.next();
    },
    close: () => { page.closed += 1; },
  });
  window.top = window;
  const document = Object.assign(new Target(), {
    visibilityState: 'visible',
    focused: true,
    hasFocus: () => document.focused,
    createElement: () => ({ setAttribute() {}, textContent: '' }),
    body: { replaceChildren: (node) => { page.text = node.textContent; } },
  });
  const location = {
    href: at.href,
    origin: at.origin,
    pathname: at.pathname,
    search: at.search,
    hash: at.hash,
    assign: (target) => page.assigned.push(target),
  };
  const history = { state: null, replaceState: (_state, _title, target) => page.replaced.push(target) };
  const sessionStorage = {
    getItem: (key) => page.stored.get(key) ?? null,
    setItem: (key, value) => { page.stored.set(key, value); },
    removeItem: (key) => { page.stored.delete(key); },
  };
  const console = { ...globalThis.console, warn: (text) => page.warnings.push(text) };
  Object.assign(globalThis, { window, document, location, history, sessionStorage, console, BroadcastChannel: Channel });
  return Object.assign(page, { window, document });
}

/** Lets everything that waits for a promise go on. */
export async function settle() {
  for (let turn = 0; turn < 30; turn += 1) await Promise.resolve();
}

/** What the result page does when it has an opener. */
export function report(page, popup, data, origin = 'https://broker.example') {
  page.window.send('message', { origin, source: popup, data: { type: 'valetkey', ...data } });
}

/** What the relay page does on the application's origin. Answers what came back. */
export function broadcast(flow_id, data) {
  const answers = [];
  const channel = new Channel(`valetkey:${flow_id}`);
  channel.onmessage = (event) => answers.push(event.data);
  channel.postMessage({ type: 'valetkey', flow_id, ...data });
  channel.close();
  return answers;
}
