// Requests to the server. One that gets no answer is sent again until it gets one; saving twice under one key is saving once.

const PAUSE = 2000; // milliseconds between two tries

/** An answer of the server that is an error; `status` is HTTP's. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/**
 * Sends an object to a route and returns the answer.
 * @param {string} route such as "task"
 * @param {object} body
 * @param {(sentence: string) => void} tell is called when the server does not answer, and with "" when it does again
 */
export async function post(route, body, tell) {
  let failed = false;
  for (;;) {
    let response;
    try {
      response = await fetch(`api/${route}`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      });
    } catch {
      failed = true;
      tell("The server does not answer. Your work stays on this page; it is sent as soon as the server is back.");
      await new Promise((done) => setTimeout(done, PAUSE));
      continue;
    }
    if (failed) tell("");
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    throw new Refused(response.status, answer.error || `The server answered with an error (${response.status}).`);
  }
}

/** A new key, for one saving. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
