// What stands in the corner of a result's viewport, so that nobody takes it for an acquisition.

const NOTICE = 'Super-resolved, not acquired';

/** Checkpoint and fidelity as DerivationDescription tells them; see `jobs/writing.py`. */
export function noticeOf(instance) {
  const words = [].concat(instance?.DerivationDescription ?? []).join(' ');
  if (!/mrisr_node/.test(words)) return null;
  const checkpoint = /checkpoint (\S+)/.exec(words)?.[1];
  const median = /by ([\d.]+) % \(median\)/.exec(words)?.[1];
  const figures = [checkpoint, median && `departs from the slices by ${median} % (median)`];
  return [NOTICE, ...figures.filter(Boolean)].join(' · ');
}

export const notice = {
  id: 'mrisrNotice',
  inheritsFrom: 'ohif.overlayItem',
  title: 'Computed by mrisr_node; not for diagnosis on its own',
  color: '#ffd166',
  condition: ({ displaySets }) => displaySets?.some(set => noticeOf(set.instances?.[0])),
  contentF: ({ displaySets }) =>
    displaySets.map(set => noticeOf(set.instances?.[0])).find(Boolean),
};
