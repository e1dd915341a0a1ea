// One series, live: where it is, what happened to it and why, and what was computed.

import { follow } from '/pages/live.js';
import {
  actions, ask, images, link, may, origin, person, progressOf, stateName, text, time,
} from '/pages/words.js';

const id = Number(may.id);
const now = document.getElementById('now');
let series;
let refused = '';

follow({ series: id, look, progress });

async function look() {
  try {
    const [found, history, jobs] = await Promise.all([
      ask(`/api/series/${id}`),
      ask(`/api/series/${id}/transitions`),
      ask(`/api/jobs?series=${id}`),
    ]);
    fill(found);
    tell(found, history.items);
    list(jobs.items, found.job_deleted_at);
    say(refused);
  } catch (error) {
    say(error.message);
  }
}

function progress(standing) {
  // A next try is another line of what ran, too.
  const same = ['state', 'stage', 'next_try_at'].every(name => series?.[name] === standing[name]);
  if (!same) return false;
  fill({ ...series, ...standing, job: standing.job ?? series.job });
  return true;
}

function fill(found) {
  series = found;
  const part = name => now.querySelector(`.${name}`);
  const name = found.description || 'No description';
  now.hidden = false;
  text(document.querySelector('h1'), name);
  text(part('state'), stateName(found.state));
  part('state').dataset.state = found.state;
  text(part('reason'), found.reason);
  progressOf(now, found);
  link(part('compare'), found.viewer_url, `Compare original and result of ${name}`);
  link(part('result'), found.result_url, `Figures and pictures of the result of ${name}`);
  link(part('study'), found.study_url, `Open the study of ${name}`);
  actions(part('actions'), found, said);
  facts({
    Patient: person(found.patient_name),
    'Patient ID': found.patient_id,
    'Accession number': found.accession_number,
    'Study date': found.study_date.replace(/^(\d{4})(\d{2})(\d{2})$/, '$1-$2-$3'),
    Images: origin(found),
    'Series UID': found.series_instance_uid,
    'Study UID': found.study_instance_uid,
    Recipe: found.recipe,
  });
}

function facts(values) {
  const list = document.getElementById('facts');
  const lines = Object.entries(values).filter(([, value]) => value);
  if (list.dataset.shown === JSON.stringify(lines)) return;
  list.dataset.shown = JSON.stringify(lines);
  list.replaceChildren(...lines.flatMap(([name, value]) => [
    element('dt', name), element('dd', value),
  ]));
}

function tell(found, items) {
  const body = document.getElementById('transitions');
  // The first state of what arrived has no change before it; of files it is recorded.
  const first = { at: found.received_at, target: 'receiving', reason: 'the first image arrived' };
  const lines = items[0]?.source === null ? items : [first, ...items];
  for (const item of lines.slice(body.children.length)) {
    const at = document.createElement('time');
    time(at, item.at, 'medium');
    const state = element('span', stateName(item.target), 'state');
    state.dataset.state = item.target;
    body.append(row(at, state, item.reason));
  }
}

function list(jobs, deletedAt) {
  const place = document.getElementById('jobs');
  const deleted = document.getElementById('deleted');
  document.getElementById('no-jobs').hidden = jobs.length > 0 || Boolean(deletedAt);
  deleted.hidden = !deletedAt;
  if (deletedAt) time(deleted.querySelector('time'), deletedAt);
  place.replaceChildren(...jobs.map(job => {
    const part = document.getElementById('job').content.firstElementChild.cloneNode(true);
    text(part.querySelector('h3'), `Job ${job.id}: ${job.state}`);
    const tries = job.attempts ? `; vain tries of this stage: ${job.attempts}` : '';
    const result = job.result_instances ? `; a result of ${images(job.result_instances)}` : '';
    text(part.querySelector('.what'), `recipe ${job.recipe}${tries}${result}`);
    part.querySelector('tbody').append(...job.stages.map(stage => {
      const at = document.createElement('time');
      time(at, stage.started_at, 'medium');
      const seconds = stage.seconds !== null ? `${stage.seconds.toFixed(1)} s` : ending(job, stage);
      return row(stage.stage_name, at, seconds);
    }));
    part.querySelector('table').hidden = job.stages.length === 0;
    return part;
  }));
}

function ending(job, stage) {
  if (stage !== job.stages.at(-1)) return 'broken off';
  // The PACS is waited for by nobody in particular.
  if (job.state === 'waiting' && stage.stage === 'commit') return 'waiting';
  return job.state === 'running' ? 'running' : 'broken off';
}

function row(head, ...cells) {
  const line = document.createElement('tr');
  const first = document.createElement('th');
  first.scope = 'row';
  first.append(head);
  line.append(first, ...cells.map(cell => {
    const place = document.createElement('td');
    place.append(cell);
    return place;
  }));
  return line;
}

function element(kind, what, name = '') {
  const made = document.createElement(kind);
  made.textContent = what;
  if (name) made.className = name;
  return made;
}

function said(problem) {
  refused = problem;
  look();
}

function say(what) {
  text(document.getElementById('connection'), what);
}
