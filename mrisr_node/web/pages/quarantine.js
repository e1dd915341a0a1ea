// Shows what is in quarantine. It changes seldom, so it is read when the page is opened and after
// each thing that is done here.

import { ask, bytes, may, sure, time } from '/pages/words.js';

const ADDRESS = '/api/quarantine';
const PAGE = 25;

const rows = document.getElementById('rows');
const pages = document.querySelector('.pages');
const template = document.getElementById('row');

let offset = 0;

document.getElementById('newer').addEventListener('click', () => show(Math.max(0, offset - PAGE)));
document.getElementById('older').addEventListener('click', () => show(offset + PAGE));
show(0);

async function show(from) {
  offset = from;
  await told(async () => {
    let list = await ask(`${ADDRESS}?${new URLSearchParams({ limit: PAGE, offset })}`);
    // The last object of the last page was taken away.
    if (!list.items.length && offset > 0) return show(Math.max(0, offset - PAGE));
    draw(list);
  });
}

// Does something and says on the page what went wrong with it.
async function told(act) {
  try {
    say('connection', '');
    await act();
  } catch (error) {
    say('connection', error.message);
  }
}

function draw(list) {
  rows.replaceChildren(...list.items.map(newRow));
  const { total } = list;
  say('total', total === 1 ? '1 object' : `${total} objects`);
  document.getElementById('list').hidden = total === 0;
  document.getElementById('empty').hidden = total > 0;
  pages.hidden = total <= PAGE;
  say('position', `${Math.min(offset + 1, total)}–${Math.min(offset + PAGE, total)} of ${total}`);
  document.getElementById('newer').disabled = offset === 0;
  document.getElementById('older').disabled = offset + PAGE >= total;
}

function newRow(entry) {
  const row = template.content.firstElementChild.cloneNode(true);
  const part = name => row.querySelector(`.${name}`);
  time(part('at'), entry.at);
  const when = part('at').textContent;
  const from = [entry.sender, entry.address].filter(Boolean).join(' at ');
  part('origin').textContent = from ? `from ${from}` : '';
  part('size').textContent = entry.size === null ? 'its file is gone' : bytes(entry.size);
  part('why').textContent = entry.reason;
  for (const name of ['show', 'release', 'delete']) {
    part(name).setAttribute('aria-label', `${part(name).textContent} the object of ${when}`);
  }
  part('show').addEventListener('click', () => told(() => facts(row, entry)));
  part('release').addEventListener('click', () => told(() => release(entry)));
  part('delete').addEventListener('click', () => told(() => remove(entry, when)));
  part('release').hidden = !may.operate || entry.size === null;
  part('delete').hidden = !may.operate;
  return row;
}

async function facts(row, entry) {
  const found = (await ask(`${ADDRESS}/${entry.key}`)).facts;
  const list = row.querySelector('.facts');
  list.replaceChildren(...Object.entries(found).flatMap(([name, value]) => {
    const term = document.createElement('dt');
    const description = document.createElement('dd');
    term.textContent = name;
    description.textContent = value;
    return [term, description];
  }));
  list.hidden = false;
  row.querySelector('.show').hidden = true;
}

async function release(entry) {
  const { outcome, released } = await ask(`${ADDRESS}/${entry.key}/release`, 'POST');
  say('outcome', released ? `Released: ${outcome}.` : `Not released: ${outcome}.`);
  await show(offset);
}

async function remove(entry, when) {
  const question = `Delete the object of ${when} for good? Nobody else may have it.`;
  if (!(await sure(question, 'Delete'))) return;
  await ask(`${ADDRESS}/${entry.key}`, 'DELETE');
  say('outcome', 'Deleted.');
  await show(offset);
}

function say(id, what) {
  document.getElementById(id).textContent = what;
}
