// What goes over the wire: requests over HTTP, jobs over one socket that comes back by itself.

/** An error in three parts, as the library says it. */
export class Refused extends Error {
  constructor(parts) {
    super(parts.given);
    this.parts = parts;
  }
}

export async function ask(address, body, { raw = false } = {}) {
  let answer;
  try {
    answer = await fetch(address, body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  } catch {
    throw new Refused({ given: "The studio does not answer", allowed: "a studio that runs", mend: "start it again: retrograde studio" });
  }
  if (!answer.ok) {
    const parts = await answer.json().catch(() => null);
    throw new Refused(parts?.given ? parts : { given: `The studio answered ${answer.status}`, allowed: "", mend: "look at its terminal" });
  }
  return raw ? answer : answer.json();
}

/**
 * The jobs of this page. `run` keeps only the newest wish: while a run that the studio has not begun is under way, later
 * ones replace each other, so that a dragged level asks for as much as the machine can do.
 */
export class Jobs {
  constructor({ event, open, closed }) {
    this.told = { event, open, closed };
    this.job = null;
    this.waiting = false;
    this.wish = null;
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/ws`);
    this.socket.onopen = () => {
      this.delay = 500;
      this.told.open();
    };
    this.socket.onmessage = (message) => this.take(JSON.parse(message.data));
    this.socket.onclose = () => {
      this.job = null;
      this.waiting = false;
      this.told.closed();
      this.delay = Math.min(2 * (this.delay ?? 500), 8000);
      setTimeout(() => this.connect(), this.delay);
    };
  }

  take(event) {
    if (event.event === "begun") {
      this.job = { number: event.job, what: event.what };
      this.waiting = false;
      this.pass();
    } else if (event.event === "ended" && this.job?.number === event.job) {
      this.job = null;
    } else if (event.event === "busy" || event.event === "failed") {
      // A job that failed ends with "ended"; a request that was refused ends here.
      if (this.waiting) {
        this.waiting = false;
        this.wish = null;
      }
    }
    this.told.event(event);
  }

  /** Whether an answer is still to come. */
  get pending() {
    return Boolean(this.job || this.waiting || this.wish);
  }

  /** Whether something newer has been asked than what is being answered. */
  get behind() {
    return Boolean(this.waiting || this.wish);
  }

  get fitting() {
    return this.job?.what === "a fit";
  }

  run(request) {
    this.wish = { do: "run", ...request };
    this.pass();
  }

  tune(request) {
    this.wish = { do: "tune", ...request };
    this.pass();
  }

  pass() {
    if (!this.wish || this.waiting || this.socket.readyState !== WebSocket.OPEN) return;
    const replaces = this.fitting ? null : this.job?.number ?? null; // a fit is not thrown away by a drag
    this.socket.send(JSON.stringify({ ...this.wish, replaces }));
    this.waiting = true;
    this.wish = null;
  }

  stop(number = this.job?.number) {
    this.wish = null;
    if (number !== undefined) this.socket.send(JSON.stringify({ do: "cancel", job: number }));
  }
}
