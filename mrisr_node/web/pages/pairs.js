// Asks for pairs of uploaded scans, and shows how far they are.

import { actions, ACTIVE, ask, bytes, goesOn, stateName, text, time, WAITING } from '/pages/words.js';

const EVERY_MS = 2000;

const form = document.getElementById('wanted');
const rows = document.getElementById('rows');
const template = document.getElementById('row');
let timer;
let refused = '';

form?.addEventListener('submit', async event => {
  event.preventDefault();
  const fields = new FormData(form);
  const more = fields.get('more').split(',').map(one => one.trim()).filter(Boolean);
  const button = form.querySelector('button');
  button.disabled = true;
  try {
    await ask('/api/pairs', 'POST', {
      files: fields.getAll('files'),
      slices: [...fields.getAll('slices'), ...more],
      axis: fields.get('axis'),
      profile: fields.get('profile'),
      contrast: fields.get('contrast'),
      license: fields.get('license') || null,
      register_to_mni: fields.has('register_to_mni'),
    });
    text(document.getElementById('refused'), '');
  } catch (error) {
    text(document.getElementById('refused'), error.message);
  }
  button.disabled = false;
  follow();
});
document.addEventListener('visibilitychange', () => document.hidden || follow());
if (form) scans();
follow();

async function scans() {
  const { items } = await ask('/api/uploads?limit=500');
  const place = document.getElementById('scans');
  for (const { file, name, size, created_at: at } of items.filter(one => one.file)) {
    place.querySelector('p')?.remove();
    const box = Object.assign(document.createElement('input'), { type: 'checkbox', name: 'files', value: file });
    const label = Object.assign(document.createElement('label'), { className: 'check' });
    const more = Object.assign(document.createElement('span'), { className: 'quiet' });
    const when = document.createElement('time');
    time(when, at);
    more.append(`${bytes(size)}, `, when);
    const words = document.createElement('span');
    words.append(`${name} `, more);
    label.append(box, words);
    place.append(label);
  }
}

// What a button of a dataset answered stays until another one is used.
function said(problem) {
  refused = problem;
  follow();
}

async function follow() {
  clearTimeout(timer);
  let again = EVERY_MS;
  try {
    const { items } = await ask('/api/pairs?limit=100');
    draw(items);
    text(document.getElementById('connection'), refused);
    if (!items.some(one => ACTIVE.includes(one.state))) again = 0;
  } catch (error) {
    text(document.getElementById('connection'), error.message);
  }
  if (again && !document.hidden) timer = setTimeout(follow, again);
}

function draw(items) {
  document.getElementById('list').hidden = !items.length;
  document.getElementById('empty').hidden = items.length > 0;
  items.forEach((one, place) => {
    const row = rows.children[place] ?? rows.appendChild(template.content.cloneNode(true).firstElementChild);
    const part = name => row.querySelector(`.${name}`);
    const active = ACTIVE.includes(one.state);
    const scans = `${one.scans} scan${one.scans === 1 ? '' : 's'}`;
    text(part('name'), scans);
    part('name').href = `/series/${one.id}`;
    time(row.querySelector('time'), one.created_at);
    text(part('state'), stateName(one.state));
    part('state').dataset.state = one.state;
    text(part('reason'), one.reason);
    const bar = row.querySelector('progress');
    bar.hidden = !active;
    bar.value = one.progress;
    bar.setAttribute('aria-label', `Progress of the dataset of ${scans}`);
    text(part('stage'), one.waiting_for ? WAITING : '');
    text(part('left'), active ? goesOn(one) : '');
    actions(part('actions'), { ...one, description: `dataset of ${scans}` }, said);
    part('files').replaceChildren(...one.files.map(file => Object.assign(
      document.createElement('a'), { href: file.url, textContent: file.name, download: file.name })));
  });
}
