/** How a window is used. `auto`: a popup, and a full-page redirect where the browser blocks it. */
export type Mode = 'auto' | 'popup' | 'redirect';

/** What `start` passes on to the application's backend, which adds its signed-in user and calls Valetkey. */
export interface StartInput {
  mode: 'popup' | 'redirect';
  /** The origin of the page that called `connect`. */
  origin: string;
  /** The relay page for a popup, the page that calls `resume` for a redirect. */
  return_url: string;
}

/** Valetkey's answer to `POST /v1/connectors/{id}/flows`, unchanged. */
export interface StartedFlow {
  flow_id: string;
  start_url: string;
  /** RFC 3339. */
  expires_at: string;
}

/** Valetkey's answer to `GET /v1/flows/{id}`, unchanged. It never holds a handle. */
export interface FlowStatus {
  status: 'pending' | 'awaiting_finish' | 'finishing' | 'connected' | 'failed' | 'cancelled' | 'expired';
  code?: string;
}

/**
 * How far an attempt has come. `maybe_closed` is advice only: offer "Open again", and keep waiting.
 * `done`: `result` has settled.
 */
export type Phase = 'opening' | 'at_provider' | 'maybe_closed' | 'finishing' | 'done';

export type Outcome =
  /** Send both to your backend: it calls `POST /v1/flows/{id}/finish` for its signed-in user. */
  | { status: 'authorized'; flow_id: string; handle: string }
  /** Valetkey says that the connection exists already (binding `confirm_page`, or another tab finished). Ask your backend. */
  | { status: 'connected'; flow_id: string }
  /** The person said no at the provider. */
  | { status: 'denied'; flow_id: string }
  /** `flow_id` is absent when no flow was started. Codes are those of Valetkey, and `start-failed`, `relay-missing`. */
  | { status: 'failed'; flow_id?: string; code: string }
  /** By the person in the window, by `cancel()` or the signal, or by a later `connect` for the same key. */
  | { status: 'cancelled'; by: 'user' | 'caller' | 'superseded' }
  | { status: 'expired' }
  /** No window could be opened. Show a link; `continueUrl` starts a redirect flow and answers its address. */
  | { status: 'blocked'; continueUrl(): Promise<string> }
  /** This page is being left; `resume` has the outcome on the page that `returnUrl` names. */
  | { status: 'redirecting' };

export interface ConnectOptions {
  /** Asks the application's backend for a flow. A rejection becomes `failed` with its `code`, or `start-failed`. */
  start(input: StartInput, signal: AbortSignal): Promise<StartedFlow>;
  /** Asks the application's backend where the flow stands. A rejection is ignored: the next poll asks again. */
  status(flow_id: string, signal: AbortSignal): Promise<FlowStatus>;
  /** Tells the application's backend to cancel. Called when the attempt is cancelled here. */
  cancel?(flow_id: string): Promise<void>;
  /** Default `auto`. */
  mode?: Mode;
  /** What is being connected. A second `connect` for the same key supersedes the first. Default: one key for all. */
  key?: string;
  /** Valetkey's origin, the only one whose message is accepted. Default: the origin of `start_url`. */
  brokerOrigin?: string;
  /** Page of this origin that calls `relay()`. Default `/valetkey/relay`. */
  relayUrl?: string;
  /** Redirect mode: page of this application that calls `resume()`. Default: this page, without its query. */
  returnUrl?: string;
  /** Aborting it cancels the attempt. */
  signal?: AbortSignal;
  onPhase?(phase: Phase): void;
}

export interface Attempt {
  /** Settles exactly once. Rejects only for programming faults; everything else is an outcome. */
  readonly result: Promise<Outcome>;
  readonly phase: Phase;
  /** Brings the window to the front; false if there is none, or none within reach. */
  focus(): boolean;
  cancel(): void;
}

/** Starts an attempt. Call it inside the click, before any `await`: browsers open a window only there. */
export function connect(options: ConnectOptions): Attempt;

/** The relay page's only line. The page keeps nothing: without an attempt that waits, it says where to go. */
export function relay(): void;

/** Redirect mode: the outcome of the flow that this tab left for, once; null if there is none. */
export function resume(): Extract<Outcome, { status: 'authorized' | 'connected' | 'denied' | 'failed' | 'cancelled' | 'expired' }> | null;
