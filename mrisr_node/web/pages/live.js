// What happens, live: by Server-Sent Events, and by asking now and then where they do not come.

const ASK_EVERY_MS = 2000;
const AT_MOST_EVERY_MS = 500;
const CONNECT_AGAIN_MS = 30_000;
// An event may be lost on the way here, whatever anybody promises.
const LOOK_ANYWAY_MS = 30_000;

// Call `look` at once and whenever something has happened, and `progress` with how far one series
// is. While the page is hidden nothing is asked: browsers open few connections to one server.
export function follow({ series, look, progress }) {
  const address = `/api/events${series ? `?series=${series}` : ''}`;
  let source, due, again, looking = false, wanted = false;

  async function lookSoon() {
    wanted = true;
    if (looking || document.hidden) return;
    looking = true;
    while (wanted && !document.hidden) {
      wanted = false;
      await look();
      await new Promise(resolve => setTimeout(resolve, AT_MOST_EVERY_MS));
    }
    looking = false;
    plan();
  }

  function plan() {
    clearTimeout(due);
    const live = source?.readyState === EventSource.OPEN;
    if (!document.hidden) due = setTimeout(lookSoon, live ? LOOK_ANYWAY_MS : ASK_EVERY_MS);
  }

  function connect() {
    clearTimeout(again);
    source?.close();
    source = new EventSource(address);
    source.addEventListener('hello', lookSoon);
    source.addEventListener('series', lookSoon);
    source.addEventListener('progress', event => progress(JSON.parse(event.data)) || lookSoon());
    source.addEventListener('error', () => {
      plan();
      // Of a lost connection the browser takes care, not of one that was refused.
      clearTimeout(again);
      if (source.readyState === EventSource.CLOSED) again = setTimeout(connect, CONNECT_AGAIN_MS);
    });
  }

  function change() {
    if (document.hidden) {
      source.close();
      clearTimeout(due);
      clearTimeout(again);
    } else {
      connect();
      lookSoon();
    }
  }

  document.addEventListener('visibilitychange', change);
  // Firefox says so in the console where a page is left with an open stream.
  addEventListener('pagehide', () => source.close());
  addEventListener('pageshow', event => event.persisted && change());
  connect();
  lookSoon();
  return lookSoon;
}
