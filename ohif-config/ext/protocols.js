// How original and result are hung: the original left or on top, the result right or below, every
// view of one tied to the same view of the other; and the result with what was found out about it.

import { colours } from './colours.js';

export const ROLE = 'mrisrRole';
export const HAS_PAIR = 'mrisrHasPair';
/** The viewport in which original and result lie over each other. */
export const FLICKER = 'mrisr-flicker';

const sync = (type, id, options) => ({ type, id, source: true, target: true, options });

// By position in space, so that 5 mm and 1 mm slices stay side by side.
const SLICE = sync('imageSlice', 'mrisrSlice');
const ZOOM = sync('zoompan', 'mrisrZoom');
const WINDOW = sync('voi', 'mrisrWindow', { syncColormap: true });
const SEGMENTS = sync('hydrateseg', 'mrisrSegments', { matchingRules: ['sameFOR'] });

// The topmost slice, where OHIF would start, is black.
const START = { preset: 'middle' };

const stack = role => ({
  viewportOptions: {
    viewportId: `mrisr-${role}`,
    viewportType: 'stack',
    toolGroupId: 'default',
    allowUnmatchedView: true,
    initialImageOptions: START,
    syncGroups: [SLICE, ZOOM, WINDOW, SEGMENTS],
  },
  displaySets: [{ id: role }],
});

const plane = (role, orientation) => ({
  viewportOptions: {
    viewportId: `mrisr-${role}-${orientation}`,
    viewportType: 'volume',
    orientation,
    toolGroupId: 'mpr',
    allowUnmatchedView: true,
    initialImageOptions: START,
    syncGroups: [sync('cameraPosition', `mrisrCamera-${orientation}`), WINDOW, SEGMENTS],
  },
  displaySets: [{ id: role }],
});

// In colour over the result, as `colours.js` chooses from the values of the map.
const overlay = role => ({ id: role, options: { colormap: { custom: colours(role) } } });

const fused = (orientation, map) => ({
  viewportOptions: {
    viewportId: `mrisr-${map.id}-${orientation}`,
    viewportType: 'volume',
    orientation,
    toolGroupId: 'mpr',
    allowUnmatchedView: true,
    initialImageOptions: START,
  },
  displaySets: [{ id: 'result' }, map],
});

const masked = (viewport, name) => ({
  viewportOptions: { ...viewport.viewportOptions, viewportId: `mrisr-mask-${name}` },
  displaySets: [{ id: 'result' }, { id: 'mask' }],
});

// Both in one viewport, the result on top: `flicker.js` shows and hides it.
const stacked = {
  viewportOptions: {
    viewportId: FLICKER,
    viewportType: 'volume',
    orientation: 'acquisition',
    toolGroupId: 'mpr',
    allowUnmatchedView: true,
    initialImageOptions: START,
  },
  displaySets: [{ id: 'source' }, { id: 'result', options: { colormap: { opacity: 1 } } }],
};

// Seen from in front. OHIF's own layouts of this kind show whichever series is active.
const rendered = {
  viewportOptions: {
    viewportId: 'mrisr-3d',
    viewportType: 'volume3d',
    orientation: 'coronal',
    toolGroupId: 'volume3d',
    allowUnmatchedView: true,
  },
  displaySets: [{ id: 'result', options: { displayPreset: { MR: 'MR-Default' } } }],
};

const grid = (rows, columns) => ({ layoutType: 'grid', properties: { rows, columns } });

const selector = role => ({
  seriesMatchingRules: [
    { attribute: ROLE, weight: 10, required: true, constraint: { equals: { value: role } } },
  ],
});

const protocol = (id, name, icon, stage, more = []) => ({
  id,
  name,
  icon,
  isPreset: true,
  locked: true,
  numberOfPriorsReferenced: 0,
  toolGroupIds: ['default'],
  protocolMatchingRules: [
    {
      id: HAS_PAIR,
      attribute: HAS_PAIR,
      weight: 1000,
      required: true,
      constraint: { equals: { value: true } },
    },
  ],
  displaySetSelectors: Object.fromEntries(
    ['source', 'result', ...more].map(role => [role, selector(role)])
  ),
  defaultViewport: {
    viewportOptions: { viewportType: 'stack', toolGroupId: 'default', allowUnmatchedView: true },
    displaySets: [{ id: 'source', matchedDisplaySetsIndex: -1 }],
  },
  callbacks: {},
  stages: [{ id: `${id}-stage`, name, ...stage }],
});

export const protocols = [
  protocol('mrisrSideBySide', 'Original | result', 'layout-common-1x2', {
    viewportStructure: grid(1, 2),
    viewports: ['source', 'result'].map(stack),
  }),
  protocol('mrisrPlanes', 'Sagittal, coronal', 'layout-common-2x2', {
    viewportStructure: grid(2, 2),
    viewports: ['sagittal', 'coronal'].flatMap(orientation =>
      ['source', 'result'].map(role => plane(role, orientation))
    ),
  }),
  protocol('mrisrMpr', 'Three planes', 'layout-common-2x3', {
    viewportStructure: grid(2, 3),
    viewports: ['source', 'result'].flatMap(role =>
      ['axial', 'sagittal', 'coronal'].map(orientation => plane(role, orientation))
    ),
  }),
  protocol(
    'mrisrMask',
    'Result with brain',
    'layout-common-1x2',
    {
      viewportStructure: grid(1, 2),
      viewports: [
        masked(stack('result'), 'stack'),
        masked(plane('result', 'sagittal'), 'sagittal'),
      ],
    },
    ['mask']
  ),
  protocol(
    'mrisrFidelity',
    'Fidelity in colour',
    'layout-common-1x2',
    {
      viewportStructure: grid(1, 2),
      viewports: ['axial', 'sagittal'].map(orientation =>
        fused(orientation, overlay('fidelity'))
      ),
    },
    ['fidelity']
  ),
  protocol(
    'mrisrChange',
    'Change in colour',
    'layout-common-1x2',
    {
      viewportStructure: grid(1, 2),
      viewports: ['axial', 'sagittal'].map(orientation =>
        fused(orientation, overlay('change'))
      ),
    },
    ['change']
  ),
  protocol('mrisr3d', 'Result in 3D', 'layout-advanced-3d-only', {
    viewportStructure: grid(1, 1),
    viewports: [rendered],
  }),
  protocol('mrisrFlicker', 'Flicker (key X)', 'layout-common-1x1', {
    viewportStructure: grid(1, 1),
    viewports: [stacked],
  }),
];

/** What a protocol needs besides original and result. */
export const needs = { mrisrMask: 'mask', mrisrFidelity: 'fidelity', mrisrChange: 'change' };
