// What stands in the corner of a result's viewport, so that nobody takes it for an acquisition.

// An Enhanced MR object says it of each frame.
const description = instance =>
  instance?.DerivationDescription ??
  [].concat(instance?.PerFrameFunctionalGroupsSequence ?? [])[0]?.DerivationImageSequence?.[0]
    ?.DerivationDescription;

/** What DerivationDescription tells of a result of ours (`jobs/writing.py`); null of others. */
export function provenance(instance) {
  const words = [].concat(description(instance) ?? []).join(' ');
  if (!/mrisr_node/.test(words)) return null;
  return {
    checkpoint: /checkpoint (\S+)/.exec(words)?.[1],
    median: /by ([\d.]+) % \(median\)/.exec(words)?.[1],
  };
}

const shown = ({ displaySets }) =>
  (displaySets ?? []).map(set => provenance(set.instances?.[0])).find(Boolean);

// OHIF cuts long lines, and in a narrow viewport all but short ones.
const line = (id, words) => ({
  id,
  inheritsFrom: 'ohif.overlayItem',
  title: 'Computed by mrisr_node; not for diagnosis on its own',
  color: '#ffd166',
  condition: props => Boolean(shown(props) && words(shown(props))),
  contentF: props => words(shown(props)),
});

export const notices = [
  line('mrisrNotice', () => 'Super-resolved,'),
  line('mrisrNotAcquired', () => 'not acquired'),
  line('mrisrCheckpoint', ({ checkpoint }) => checkpoint),
  line('mrisrFidelity', ({ median }) => median && `residual ${median} %`),
];
