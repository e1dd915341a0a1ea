// Uploads files, one after the other, and shows what became of each.

import { Transfer } from '/pages/tus.js';
import {
  ACTIVE, ask as askNode, bytes, duration, may, nextTry, stateName, sure, text, WAITING,
} from '/pages/words.js';

const EVERY_MS = 2000;
const RATE_MS = 10000;
const END_EVERY_MS = 500;
const END_WITHIN_MS = 10000;
const WORDS = {
  receiving: 'uploading', checking: 'checking', sending: 'sending', done: 'uploaded', refused: 'refused',
};
const AXES = ['first axis', 'second axis', 'third axis'];

const rows = document.getElementById('rows');
const template = document.getElementById('row');
const drop = document.getElementById('drop');
const input = document.getElementById('files');
const process = document.getElementById('process');
const form = process.querySelector('form');

// What went wrong, by the name of the file that it is about.
const troubles = new Map();
const waiting = [];
let current = null;
let timer;

input.addEventListener('change', choose);
for (const name of ['dragenter', 'dragover']) {
  drop.addEventListener(name, event => {
    event.preventDefault();
    drop.classList.add('over');
  });
}
for (const name of ['dragleave', 'drop']) drop.addEventListener(name, () => drop.classList.remove('over'));
drop.addEventListener('drop', event => {
  event.preventDefault();
  add(event.dataTransfer.files);
});
form.elements.pacs.addEventListener('change', () => {
  document.getElementById('study').hidden = !form.elements.pacs.checked;
});
addEventListener('beforeunload', event => {
  if (current) event.preventDefault();
});
document.addEventListener('visibilitychange', () => document.hidden || follow());
// Somebody may have been faster than this script.
choose();
follow();

function choose() {
  add(input.files);
  input.value = '';
}

function add(files) {
  const most = Number(may.most);
  for (const file of files) {
    if (file.size === 0 || file.size > most) {
      trouble(file.name, file.size ? `larger than ${bytes(most)}.` : 'an empty file.');
    } else waiting.push(file);
  }
  next();
}

async function next() {
  if (current || !waiting.length) return;
  const file = waiting.shift();
  const marks = [];
  current = new Transfer(file, may.owner, ({ offset, waiting: why }) => {
    const now = performance.now();
    marks.push([now, offset]);
    while (marks.length > 2 && now - marks[0][0] > RATE_MS) marks.shift();
    progress(offset, why, marks);
  });
  try {
    const more = waiting.length ? `, ${waiting.length} more to go` : '';
    outcome(file.name, `Uploading ${file.name}${more} …`);
    await current.run();
    // Who has given it up says so, once it is done.
    if (!current.ended) outcome(file.name, `${file.name} is uploaded.`);
  } catch (error) {
    outcome(file.name, '');
    trouble(file.name, error.message);
  }
  current = null;
  await follow();
  next();
}

// Draws at once what this page knows better than the node's list.
function progress(offset, why, marks) {
  const key = current?.url?.split('/').pop();
  const row = key && [...rows.children].find(one => one.dataset.id === key);
  if (!row) {
    if (key && !timer) follow();
    return;
  }
  row.querySelector('progress').value = offset / current.file.size;
  const [[from, start], [to, end]] = [marks[0], marks.at(-1)];
  const rate = (end - start) / (to - from) * 1000;
  const left = rate > 0 ? `, about ${duration((current.file.size - offset) / rate)} left` : '';
  text(row.querySelector('.left'),
    why ? `${why}. Trying again …` : `${bytes(offset)} of ${bytes(current.file.size)}${left}`);
}

async function follow() {
  clearTimeout(timer);
  timer = null;
  let again = EVERY_MS;
  try {
    const [list, jobs] = await Promise.all([
      ask('/api/uploads?limit=100'), ask('/api/inference?limit=100')]);
    draw(list, jobs.items);
    say('connection', '');
    const still = list.items.some(one => ['receiving', 'checking', 'sending'].includes(one.state))
      || jobs.items.some(one => ACTIVE.includes(one.state))
      || list.items.some(one => one.kind !== 'nifti' && one.state === 'done' && !one.series.length);
    if (!still && !current) again = 0;
  } catch (error) {
    say('connection', `${error.message} Trying again …`);
  }
  clearTimeout(timer);
  if (again && !document.hidden) timer = setTimeout(follow, again);
}

function draw(list, jobs) {
  const old = new Map([...rows.children].map(row => [row.dataset.id, row]));
  let place = rows.firstElementChild;
  for (const upload of list.items) {
    const row = old.get(upload.id) ?? newRow(upload);
    old.delete(upload.id);
    if (row === place) place = place.nextElementSibling;
    else rows.insertBefore(row, place);
    fill(row, upload, jobs.filter(job => job.source && job.source === upload.file));
  }
  for (const gone of old.values()) gone.remove();
  say('total', list.total === 1 ? '1 upload' : `${list.total} uploads`);
  document.getElementById('list').hidden = list.total === 0;
  document.getElementById('empty').hidden = list.total > 0;
}

function newRow(upload) {
  const row = template.content.firstElementChild.cloneNode(true);
  row.dataset.id = upload.id;
  const part = name => row.querySelector(`.${name}`);
  part('begin').setAttribute('aria-label', `Super-resolve ${upload.name}`);
  part('delete').setAttribute('aria-label', `Delete ${upload.name}`);
  part('download').setAttribute('aria-label', `Download ${upload.name}`);
  part('begin').addEventListener('click', () => told(row.upload, begin));
  part('delete').addEventListener('click', () => told(row.upload, remove));
  return row;
}

function fill(row, upload, jobs) {
  row.upload = upload;
  const part = name => row.querySelector(`.${name}`);
  const mine = current?.url?.endsWith(upload.id);
  const receiving = upload.state === 'receiving';
  text(part('name'), upload.name);
  text(part('size'), bytes(upload.size));
  const waits = upload.next_try_at !== null;
  text(part('state'), receiving && !mine ? 'interrupted' : waits ? 'waiting' : WORDS[upload.state]);
  part('state').dataset.state = { refused: 'failed', done: 'done' }[upload.state] ?? 'queued';
  const again = waits ? `, at ${new Date(upload.next_try_at * 1000).toLocaleTimeString()}` : '';
  text(part('reason'), receiving && !mine ? 'Choose the same file again, and it goes on.' : upload.reason + again);
  const bar = row.querySelector('progress');
  bar.hidden = !receiving;
  bar.setAttribute('aria-label', `Uploaded of ${upload.name}`);
  if (receiving && !mine) {
    bar.value = upload.offset / upload.size;
    text(part('left'), `${bytes(upload.offset)} of ${bytes(upload.size)}`);
  } else if (!receiving) text(part('left'), '');
  part('begin').hidden = !upload.file || !may.operate;
  part('download').hidden = !upload.file;
  if (upload.file) part('download').href = `/api/files/${upload.file}`;
  part('series').hidden = !upload.series.length;
  part('series').href = '/';
  // What waits for its next try nobody works on.
  part('delete').hidden = ['checking', 'sending'].includes(upload.state) && !waits;
  part('jobs').replaceChildren(...jobs.map(drawJob));
}

function drawJob(job) {
  const item = document.createElement('li');
  const state = document.createElement('span');
  state.className = 'state';
  state.dataset.state = job.state;
  state.textContent = stateName(job.state);
  const why = job.waiting_for ? `${WAITING}.` : [job.reason, nextTry(job)].filter(Boolean).join(', ');
  item.append(anchor(`/series/${job.id}`, `Series ${job.id}`), ' ', state, ` ${why} `);
  for (const [name, url] of [['All files', job.zip_url], ['Compare', job.viewer_url]]) {
    if (!url) continue;
    const { pathname, search } = new URL(url, location.href);
    item.append(anchor(pathname + search, name), ' ');
  }
  return item;
}

function anchor(href, textContent) {
  return Object.assign(document.createElement('a'), { href, textContent });
}

async function begin(upload) {
  const { facts } = await ask(`/api/files/${upload.file}/info`);
  const longest = facts.spacing_mm.indexOf(Math.max(...facts.spacing_mm));
  form.reset();
  document.getElementById('study').hidden = true;
  text(process.querySelector('.name'), upload.name);
  text(form.querySelector('.error'), '');
  form.elements.slice_axis.replaceChildren(...AXES.map((name, axis) => {
    const words = `${name}: ${facts.shape[axis]} of ${facts.spacing_mm[axis].toFixed(2)} mm`;
    return new Option(words, axis, axis === longest, axis === longest);
  }));
  for (;;) {
    process.returnValue = '';
    process.showModal();
    await new Promise(closed => process.addEventListener('close', closed, { once: true }));
    if (process.returnValue !== 'begin') return;
    try {
      await ask('/api/inference', 'POST', wish(upload));
      outcome(upload.name, `${upload.name} is queued.`);
      return follow();
    } catch (error) {
      text(form.querySelector('.error'), error.message);
    }
  }
}

function wish(upload) {
  const value = name => form.elements[name].value.trim();
  const asked = { file: upload.file, slice_axis: Number(value('slice_axis')) };
  for (const name of ['contrast', 'recipe']) if (value(name)) asked[name] = value(name);
  if (value('thickness_mm')) asked.thickness_mm = Number(value('thickness_mm'));
  if (form.elements.pacs.checked) {
    asked.study = {};
    for (const { name, value: given } of document.querySelectorAll('#study input')) {
      if (given.trim()) asked.study[name] = given.trim();
    }
  }
  return asked;
}

async function remove(upload) {
  const over = ['done', 'refused'].includes(upload.state);
  const question = upload.file ? `Delete ${upload.name}? Results that were made of it stay.`
    : over ? `Delete ${upload.name} from this list?`
    : `Give up ${upload.name}? The node deletes what it has of it.`;
  if (!(await sure(question, 'Delete'))) return;
  const transfer = current?.url?.endsWith(upload.id) ? current : null;
  if (transfer) {
    transfer.stop();
    outcome(upload.name, '');
  }
  if (upload.file) await ask(`/api/files/${upload.file}`, 'DELETE');
  await end(upload);
  transfer?.forget();
  outcome(upload.name, `${upload.name} ${transfer ? 'was given up' : 'is deleted'}.`);
  await follow();
}

// The node holds on to an upload while it writes the last of what came.
async function end(upload) {
  const until = performance.now() + END_WITHIN_MS;
  for (;;) {
    try {
      return await ask(`/api/uploads/${upload.id}`, 'DELETE');
    } catch (error) {
      if (error.status === 404) return null;
      if (error.status !== 423) throw error;
      if (performance.now() > until) throw new Error(`not deleted: ${error.message}`);
      await new Promise(go => setTimeout(go, END_EVERY_MS));
    }
  }
}

// While something is sent the page stays: it goes on once somebody signs in in another tab.
function ask(path, method, body) {
  return askNode(path, method, body, !current);
}

async function told(upload, act) {
  try {
    await act(upload);
  } catch (error) {
    trouble(upload.name, error.message);
  }
}

function outcome(name, what) {
  trouble(name, '');
  say('outcome', what);
}

// Stays until something else is said about the same file, or somebody has read it.
function trouble(name, what) {
  troubles.get(name)?.remove();
  troubles.delete(name);
  if (!what) return;
  const item = document.getElementById('trouble').content.firstElementChild.cloneNode(true);
  text(item.querySelector('span'), `${name}: ${what}`);
  const button = item.querySelector('button');
  button.setAttribute('aria-label', `Dismiss what is said about ${name}`);
  button.addEventListener('click', () => trouble(name, ''));
  troubles.set(name, item);
  document.getElementById('troubles').append(item);
}

function say(id, what) {
  text(document.getElementById(id), what);
}
