// Follows the series: asks the node every two seconds and changes only what changed, so that the
// keyboard focus and the reader's place stay where they are.

const EVERY_MS = 2000;
const PAGE = 25;

const rows = document.getElementById('rows');
const filter = document.getElementById('filter');
const pages = document.querySelector('.pages');
const template = document.getElementById('row');

let offset = 0;
let timer;
let asked = 0;

filter.addEventListener('change', () => show(0));
document.getElementById('newer').addEventListener('click', () => show(Math.max(0, offset - PAGE)));
document.getElementById('older').addEventListener('click', () => show(offset + PAGE));
document.getElementById('send-all').addEventListener('click', () => post('send-again'));
document.addEventListener('visibilitychange', () => document.hidden || follow());
follow();

function show(from) {
  offset = from;
  follow();
}

async function follow() {
  clearTimeout(timer);
  const question = ++asked;
  try {
    const list = await ask();
    // An answer that was overtaken by a newer question is of no interest.
    if (question !== asked) return;
    draw(list);
    say('connection', '');
  } catch (error) {
    say('connection', `${error.message} Trying again …`);
  }
  if (question === asked && !document.hidden) timer = setTimeout(follow, EVERY_MS);
}

async function ask() {
  const query = new URLSearchParams({ limit: PAGE, offset });
  if (filter.value) query.set('state', filter.value);
  let answer;
  try {
    answer = await fetch(`/api/jobs?${query}`, { headers: { Accept: 'application/json' } });
  } catch {
    throw new Error('The node cannot be reached.');
  }
  if (answer.status === 401) {
    location.assign('/sign-in?next=/');
    throw new Error('Your session has ended.');
  }
  if (!answer.ok) throw new Error('The node made a mistake.');
  return answer.json();
}

function draw(list) {
  const old = new Map([...rows.children].map(row => [row.dataset.id, row]));
  let place = rows.firstElementChild;
  for (const job of list.items) {
    const key = String(job.id);
    const row = old.get(key) ?? newRow(key);
    old.delete(key);
    if (row === place) place = place.nextElementSibling;
    else rows.insertBefore(row, place);
    fill(row, job);
  }
  for (const gone of old.values()) gone.remove();

  const { total, dead_letters: dead } = list;
  document.getElementById('send-all').hidden = dead === 0;
  say('send-all', dead === 1 ? 'Send the undelivered result again'
    : `Send all ${dead} undelivered results again`);
  say('total', total === 1 ? '1 series' : `${total} series`);
  document.getElementById('list').hidden = total === 0;
  document.getElementById('empty').hidden = total > 0 || filter.value !== '';
  pages.hidden = total <= PAGE && offset === 0;
  say('position', `${Math.min(offset + 1, total)}–${Math.min(offset + PAGE, total)} of ${total}`);
  document.getElementById('newer').disabled = offset === 0;
  document.getElementById('older').disabled = offset + PAGE >= total;
}

function newRow(key) {
  const row = template.content.firstElementChild.cloneNode(true);
  row.dataset.id = key;
  row.querySelector('.retry').addEventListener('click', event =>
    post(`${key}/${event.currentTarget.dataset.what}`));
  return row;
}

function fill(row, job) {
  const part = name => row.querySelector(`.${name}`);
  const active = ['queued', 'preparing', 'resolving', 'delivering'].includes(job.state);
  const name = job.description || 'No description';

  text(part('description'), name);
  text(part('origin'), origin(job));
  received(row.querySelector('time'), job);
  text(part('state'), job.state === 'resolving' ? 'super-resolving' : job.state);
  part('state').dataset.state = job.state;
  text(part('reason'), job.reason);

  const stopped = job.state === 'failed' && job.stage_name ? `Stopped at: ${job.stage_name}` : '';
  text(part('stage'), active ? (job.stage_name ?? 'Waiting for its turn') : stopped);
  const bar = row.querySelector('progress');
  bar.hidden = !active;
  bar.value = job.overall;
  bar.setAttribute('aria-label', `Progress of ${name}`);
  text(part('left'), active && job.time_left ? left(job.time_left, job.state) : '');
  part('left').title = job.time_left
    ? `between ${duration(job.time_left.low)} and ${duration(job.time_left.high)}`
    : '';

  link(part('compare'), job.viewer_url, `Compare original and result of ${name}`);
  link(part('result'), job.result_url, `Figures and pictures of the result of ${name}`);
  link(part('study'), job.study_url, `Open the study of ${name}`);
  const verb = job.dead_letter ? 'Send' : 'Try';
  part('retry').hidden = job.state !== 'failed';
  part('retry').dataset.what = job.dead_letter ? 'send-again' : 'retry';
  text(part('retry'), `${verb} again`);
  part('retry').setAttribute('aria-label', `${verb} ${name} again`);
}

function origin(job) {
  const expected = job.expected_instances ? ` of ${job.expected_instances}` : '';
  const sender = job.sender ? ` from ${job.sender}` : '';
  const deleted = job.copies_deleted_at ? ', local copies deleted' : '';
  return `${job.instances}${expected} images${sender}${deleted}`;
}

function received(element, job) {
  const at = new Date(job.received_at * 1000);
  element.dateTime = at.toISOString();
  text(element, at.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' }));
}

function left(estimate, state) {
  const basis = estimate.basis === 'reference' ? ' (from reference figures)' : '';
  const when = state === 'queued' ? 'once it is its turn' : 'left';
  return `about ${duration(estimate.seconds)} ${when}${basis}`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

async function post(what) {
  try {
    const answer = await fetch(`/api/jobs/${what}`, { method: 'POST' });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    follow();
  } catch (error) {
    say('connection', error.message);
  }
}

function link(anchor, url, label) {
  anchor.hidden = !url;
  if (!url) return;
  // The node may be open under another name than its settings say; the session is for this one.
  const { pathname, search } = new URL(url);
  anchor.setAttribute('href', pathname + search);
  anchor.setAttribute('aria-label', label);
}

function say(id, what) {
  text(document.getElementById(id), what);
}

function text(element, what) {
  if (element.textContent !== what) element.textContent = what;
}
