// The series that arrived, live; what changed is changed in place, so that the keyboard focus and
// the reader's place stay where they are.

import { follow } from '/pages/live.js';
import { actions, ask, link, origin, progressOf, stateName, text, time, whose } from '/pages/words.js';

const PAGE = 25;
const TYPING_MS = 250;

const rows = document.getElementById('rows');
const filter = document.getElementById('filter');
const search = document.getElementById('search');
const pages = document.querySelector('.pages');
const template = document.getElementById('row');

let offset = 0;
let asked = 0;
let refused = '';
let typing;

filter.addEventListener('change', () => show(0));
search.addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(show, TYPING_MS, 0);
});
document.getElementById('newer').addEventListener('click', () => show(Math.max(0, offset - PAGE)));
document.getElementById('older').addEventListener('click', () => show(offset + PAGE));
document.getElementById('send-all')?.addEventListener('click', () =>
  ask('/api/jobs/send-again', 'POST').then(() => '', error => error.message).then(said));

follow({ look, progress });

function show(from) {
  offset = from;
  look();
}

async function look() {
  const question = ++asked;
  // In the body, not the address: what somebody looks for may be a name.
  const body = { q: search.value, state: filter.value || null, limit: PAGE, offset };
  try {
    const list = await ask('/api/series/search', 'POST', body);
    // An answer that was overtaken by a newer question is of no interest.
    if (question !== asked) return;
    draw(list);
    say('connection', refused);
  } catch (error) {
    say('connection', `${error.message} Trying again …`);
  }
}

// Return whether it was enough to change one row.
function progress(now) {
  const row = [...rows.children].find(one => one.dataset.id === String(now.series));
  if (!row) return offset > 0 || search.value !== '' || filter.value !== '';
  if (row.series.state !== now.state) return false;
  fill(row, { ...row.series, ...now, job: now.job ?? row.series.job });
  return true;
}

function draw(list) {
  const old = new Map([...rows.children].map(row => [row.dataset.id, row]));
  let place = rows.firstElementChild;
  for (const series of list.items) {
    const key = String(series.id);
    const row = old.get(key) ?? newRow(key);
    old.delete(key);
    if (row === place) place = place.nextElementSibling;
    else rows.insertBefore(row, place);
    fill(row, series);
  }
  for (const gone of old.values()) gone.remove();

  const { total, dead_letters: dead } = list;
  const sendAll = document.getElementById('send-all');
  if (sendAll) {
    sendAll.hidden = dead === 0;
    text(sendAll, dead === 1 ? 'Send the undelivered result again'
      : `Send all ${dead} undelivered results again`);
  }
  const sought = search.value.trim() !== '' || filter.value !== '';
  say('total', total === 1 ? '1 series' : `${total} series`);
  document.getElementById('list').hidden = total === 0;
  document.getElementById('empty').hidden = total > 0 || sought;
  document.getElementById('nothing').hidden = total > 0 || !sought;
  pages.hidden = total <= PAGE && offset === 0;
  say('position', `${Math.min(offset + 1, total)}–${Math.min(offset + PAGE, total)} of ${total}`);
  document.getElementById('newer').disabled = offset === 0;
  document.getElementById('older').disabled = offset + PAGE >= total;
}

function newRow(key) {
  const row = template.content.firstElementChild.cloneNode(true);
  row.dataset.id = key;
  row.querySelector('.description').href = `/series/${key}`;
  return row;
}

function fill(row, series) {
  const part = name => row.querySelector(`.${name}`);
  const name = series.description || 'No description';
  row.series = series;
  text(part('description'), name);
  text(part('whose'), whose(series));
  text(part('origin'), origin(series));
  time(row.querySelector('time'), series.received_at);
  text(part('state'), stateName(series.state));
  part('state').dataset.state = series.state;
  text(part('reason'), series.reason);
  progressOf(row, series);
  link(part('compare'), series.viewer_url, `Compare original and result of ${name}`);
  link(part('result'), series.result_url, `Figures and pictures of the result of ${name}`);
  link(part('study'), series.study_url, `Open the study of ${name}`);
  actions(part('actions'), series, said, ['cancel', 'retry', 'send-again']);
}

function said(problem) {
  refused = problem;
  look();
}

function say(id, what) {
  text(document.getElementById(id), what);
}
