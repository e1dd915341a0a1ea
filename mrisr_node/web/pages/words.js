// How the pages speak with the node, and in which words they show what it says.

export const may = document.querySelector('main').dataset;

export const ACTIVE = ['queued', 'preparing', 'resolving', 'delivering'];

// Whose session has ended is led to sign in, unless that would break off what this page does.
export async function ask(path, method = 'GET', body = undefined, leave = true) {
  const headers = { Accept: 'application/json' };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error('The node cannot be reached.');
  }
  if (answer.status === 401) {
    if (leave) location.assign(`/sign-in?next=${encodeURIComponent(location.pathname)}`);
    throw new Error('Your session has ended.');
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    const error = new Error(problem.detail ?? 'The node made a mistake.');
    throw Object.assign(error, { status: answer.status });
  }
  return answer.status === 204 ? null : answer.json();
}

// What can be done about a series: the words on the button, and the request.
const ACTIONS = {
  cancel: { verb: 'Cancel', request: s => ['POST', `/api/jobs/${s.job}/cancel`],
    question: () => 'Stop working on this? It can be tried again later.' },
  retry: { verb: 'Try again', request: s => ['POST', `/api/series/${s.id}/retry`] },
  'send-again': { verb: 'Send again', request: s => ['POST', `/api/jobs/${s.job}/send-again`] },
  again: { verb: 'Process again', request: s => ['POST', '/api/jobs', {
    study_instance_uid: s.study_instance_uid, series_instance_uid: s.series_instance_uid,
    again: true }],
    question: () => 'Make a new result of this series? The one that the PACS has stays there.' },
  delete: { verb: 'Delete copies', request: s => ['DELETE', `/api/jobs/${s.job}`],
    question: s => (s.study_url
      ? "Delete the node's copies of the images, the files and pictures of the result, and the job's"
        + ' record? The PACS keeps its own.'
      : "Delete what was made, and the job's record? Nobody else has it; what was uploaded stays.") },
};

// Fill a place with the buttons for what can be done, keeping those that are there.
export function actions(place, series, done, only = Object.keys(ACTIONS)) {
  const wanted = may.operate ? series.actions.filter(name => only.includes(name)) : [];
  for (const button of [...place.children]) {
    if (!wanted.includes(button.dataset.action)) button.remove();
  }
  for (const name of wanted) {
    let button = place.querySelector(`[data-action=${name}]`);
    if (!button) {
      button = document.createElement('button');
      button.dataset.action = name;
      place.append(button);
    }
    const { request, question } = ACTIONS[name];
    const verb = name === 'delete' && !series.study_url ? 'Delete' : ACTIONS[name].verb;
    text(button, verb);
    button.setAttribute('aria-label', `${verb}: ${series.description || 'no description'}`);
    button.onclick = async () => {
      if (question && !(await sure(question(series), verb))) return;
      const [method, path, body] = request(series);
      button.disabled = true;
      done(await ask(path, method, body).then(() => '', error => error.message));
      button.disabled = false;
    };
  }
}

export function sure(question, verb) {
  const dialog = document.getElementById('confirm');
  text(dialog.querySelector('p'), question);
  text(dialog.querySelector('[value=yes]'), verb);
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise(resolve => dialog.addEventListener(
    'close', () => resolve(dialog.returnValue === 'yes'), { once: true }));
}

export function stateName(state) {
  return state === 'resolving' ? 'super-resolving' : state;
}

// Family^Given^Middle^Prefix^Suffix, and after = the same in other scripts.
export function person(name) {
  return name.split('=').map(part => {
    const [family, ...given] = part.split('^').map(word => word.trim());
    return [family, given.filter(Boolean).join(' ')].filter(Boolean).join(', ');
  }).filter(Boolean).join(' · ');
}

export function whose(series) {
  const date = series.study_date.replace(/^(\d{4})(\d{2})(\d{2})$/, '$1-$2-$3');
  const number = series.accession_number ? `accession ${series.accession_number}` : '';
  return [person(series.patient_name), series.patient_id, number, date].filter(Boolean).join(' · ');
}

export function origin(series) {
  const expected = series.expected_instances;
  const count = expected ? `${series.instances} of ${images(expected)}` : images(series.instances);
  const sender = series.sender ? ` from ${series.sender}` : '';
  const deleted = series.copies_deleted_at ? ', local copies deleted' : '';
  return `${series.format === 'dicom' ? count : 'files'}${sender}${deleted}`;
}

export function images(count) {
  return count === 1 ? '1 image' : `${count} images`;
}

export const WAITING = 'Waiting for its turn';

export function nextTry(row) {
  return row.next_try_at ? `next try at ${new Date(row.next_try_at * 1000).toLocaleTimeString()}` : '';
}

// Until it is tried again nobody knows how long the rest takes.
export function goesOn(row) {
  return nextTry(row) || left(row.time_left, Boolean(row.waiting_for));
}

function left(estimate, waits) {
  if (!estimate) return '';
  if (estimate.seconds === null) {
    return estimate.runs ? 'time left unknown' : 'time left unknown: this node has no history yet';
  }
  const when = waits ? 'once it is its turn' : 'left';
  const spread = `${duration(estimate.low)} to ${duration(estimate.high)}`;
  return `about ${duration(estimate.seconds)} ${when} (${spread})`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function bytes(size) {
  if (size < 1e3) return size === 1 ? '1 byte' : `${size} bytes`;
  if (size < 1e6) return `${(size / 1e3).toFixed(0)} kB`;
  if (size < 1e9) return `${(size / 1e6).toFixed(1)} MB`;
  return `${(size / 1e9).toFixed(2)} GB`;
}

export function time(element, seconds, timeStyle = 'short') {
  const at = new Date(seconds * 1000);
  element.dateTime = at.toISOString();
  text(element, at.toLocaleString([], { dateStyle: 'medium', timeStyle }));
}

export function progressOf(row, series) {
  const active = ACTIVE.includes(series.state);
  const stopped = ['failed', 'cancelled'].includes(series.state) && series.stage_name
    ? `Stopped at: ${series.stage_name}` : '';
  const waits = series.waiting_for || !series.stage_name;
  const now = [waits ? WAITING : '', series.stage_name].filter(Boolean).join(': ');
  text(row.querySelector('.stage'), active ? now : stopped);
  const bar = row.querySelector('progress');
  bar.hidden = !active;
  bar.value = series.overall;
  bar.setAttribute('aria-label', `Progress of ${series.description || 'no description'}`);
  text(row.querySelector('.left'), active ? goesOn(series) : '');
}

export function link(anchor, url, label) {
  anchor.hidden = !url;
  if (!url) return;
  // The node may be open under another name than its settings say; the session is for this one.
  const { pathname, search } = new URL(url);
  anchor.setAttribute('href', pathname + search);
  anchor.setAttribute('aria-label', label);
}

export function text(element, what) {
  if (element.textContent !== what) element.textContent = what;
}
