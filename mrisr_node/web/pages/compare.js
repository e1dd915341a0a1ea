// Two NIfTI files in NiiVue, always at the same place in space: side by side, one over the other, or
// their difference in colour. Files are read here and sent nowhere.

import { cmapper, DRAG_MODE, Niivue, NVImage, SHOW_RENDER, SLICE_TYPE } from '/niivue/niivue.js';
import { difference, overlap, quantile, readNifti } from '/pages/nifti.js';

const SIDES = ['first', 'second'];
const TRANSLUCENT_BELOW_MIN = 1; // of NiiVue's types of colour map, which it does not export

// NiiVue's own grey is clear where it is black: what lies below would be seen there.
cmapper.addColormap('opaque', ramp([0, 0, 0, 255], [255, 255, 255, 255]));
cmapper.addColormap('brighter', ramp([255, 180, 110, 0], [255, 50, 0, 255]));
cmapper.addColormap('darker', ramp([110, 200, 255, 0], [0, 80, 255, 255]));
cmapper.addColormap('outside', ramp([90, 90, 90, 0], [90, 90, 90, 200]));

const controls = document.getElementById('controls').elements;
const panes = {};
const files = {};
const troubles = {};
// How many files were chosen for a side: what was read too late, after a newer choice, is not shown.
const chosen = { first: 0, second: 0 };
// The difference of the two files, once it was asked for.
let subtracted = null;

start().catch(error => trouble('page', `Images cannot be shown in this browser (${error.message}).`));

async function start() {
  for (const side of SIDES) panes[side] = await pane(side);
  panes.first.broadcastTo(panes.second, { '2d': true });
  panes.second.broadcastTo(panes.first, { '2d': true });
  for (const side of SIDES) {
    const input = document.getElementById(side);
    const change = () => input.files.length && take(side, input.files[0]);
    input.addEventListener('change', change);
    // Whoever was faster than this script has chosen already.
    change();
  }
  controls.view.forEach(radio => radio.addEventListener('change', draw));
  controls.planes.addEventListener('change', planes);
  controls.zoom.addEventListener('input', zoom);
  for (const name of ['opacity', 'brightness', 'same']) controls[name].addEventListener('input', adjust);
  document.addEventListener('dragover', event => event.preventDefault());
  document.addEventListener('drop', drop);
}

async function pane(side) {
  const view = new Niivue({
    crosshairColor: [0.9, 0.75, 0.1, 1],
    crosshairWidthUnit: 'mm',
    crosshairWidth: 0.7,
    crosshairGap: 4,
    fontColor: [1, 1, 1, 1],
    fontMinPx: 16,
    // Of what NiiVue can do with pointer and keys, what both panes can do together.
    dragAndDropEnabled: false,
    dragMode: DRAG_MODE.slicer3D,
    mouseEventConfig: {
      leftButton: { primary: DRAG_MODE.crosshair },
      rightButton: DRAG_MODE.pan,
      centerButton: DRAG_MODE.pan,
    },
    touchEventConfig: { singleTouch: DRAG_MODE.crosshair, doubleTouch: DRAG_MODE.pan },
    clipPlaneHotKey: '',
    cycleClipPlaneHotKey: '',
    viewModeHotKey: '',
    // Along the axes of space, where slices of any two grids are the same.
    isSliceMM: true,
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    multiplanarShowRender: SHOW_RENDER.NEVER,
    loadingText: '',
    logLevel: 'error',
  });
  view.onLocationChange = ({ mm, values }) => say(`${side}-place`, [
    [...mm].slice(0, 3).map(one => one.toFixed(1)).join(', '),
    ...read(values),
  ].join(' · '));
  await view.attachToCanvas(document.getElementById(`${side}-canvas`));
  return view;
}

function drop(event) {
  event.preventDefault();
  const [one, other] = event.dataTransfer.files;
  if (other) {
    take('first', one);
    take('second', other);
  } else if (one) {
    const here = event.target.closest('[data-side]')?.dataset.side;
    take(here ?? (files.first ? 'second' : 'first'), one);
  }
}

// Reads a file and shows it. What cannot be shown changes nothing but the message.
async function take(side, file) {
  const turn = ++chosen[side];
  trouble(side, '');
  say(`${side}-facts`, 'Reading …');
  try {
    const volume = await readNifti(file);
    const image = await layer(side, volume, { colormap: 'opaque' });
    if (turn !== chosen[side]) return;
    files[side] = {
      name: file.name,
      volume,
      image,
      window: [quantile(volume.values, 0.02), quantile(volume.values, 0.995)],
    };
    subtracted = null;
    await draw();
  } catch (error) {
    if (turn !== chosen[side]) return;
    trouble(side, `${file.name} ${error.message}.`);
  }
  say(`${side}-facts`, files[side] ? described(files[side]) : '');
}

async function draw() {
  const { first, second } = files;
  const apart = first && second && !overlap(first.volume, second.volume);
  trouble('both', apart ? 'The two files have no place in common, so they can only be seen beside each other.' : '');
  const together = first && second && !apart;
  controls.view.forEach(radio => { radio.disabled = radio.value !== 'side' && !together; });
  if (!together) controls.view.value = 'side';
  const view = controls.view.value;
  for (const part of document.querySelectorAll('main [data-view]')) {
    part.hidden = part.dataset.view !== view;
  }
  document.querySelector('figure[data-side=second]').hidden = view !== 'side';

  if (view === 'side') {
    if (first) show(panes.first, [first.image]);
    if (second) show(panes.second, [second.image]);
  } else if (view === 'overlay') {
    // NiiVue draws on the grid of the lowest: with the finer one there, nothing is lost.
    const finer = size(second.volume) < size(first.volume);
    show(panes.first, finer ? [second.image, first.image] : [first.image, second.image]);
  } else {
    subtracted ??= await subtract(first, second);
    // Somebody may have looked elsewhere in the meantime.
    if (controls.view.value !== view) return;
    show(panes.first, [first.image, ...subtracted]);
  }
  if (view === 'side' && first && second) {
    panes.second.scene.crosshairPos = panes.second.mm2frac(place(panes.first));
  }
  adjust();
}

// Puts images into a pane, the first below the others; the cross stays where it is in space.
function show(view, images) {
  const before = view.volumes.length ? place(view) : null;
  view.volumes = images;
  view.setVolume(images[0], 0);
  const cross = before && view.mm2frac(before);
  // At first in the middle of a voxel, so that a thick slice is left by the first step.
  view.scene.crosshairPos = cross?.every(part => part >= 0 && part <= 1) ? cross
    : view.vox2frac(view.frac2vox([0.5, 0.5, 0.5]));
}

async function subtract(first, second) {
  say('low', '…');
  say('high', '…');
  await new Promise(requestAnimationFrame);
  const { volume, outside, part } = difference(first.volume, second.volume);
  // Beyond the greatest hundredth nothing gets brighter; what rounding leaves has no colour.
  const [black, white] = first.window;
  const range = Math.max(quantile(volume.values.map(Math.abs), 0.99), (white - black) / 100);
  say('low', `\u2212${short(range)}`);
  say('high', `+${short(range)}`);
  const image = await layer('difference', volume, {
    colormap: 'brighter', colormapNegative: 'darker', cal_min: range / 2, cal_max: range,
  });
  image.colormapType = TRANSLUCENT_BELOW_MIN;
  const share = part < 0.01 ? 'under 1' : Math.round(100 * part);
  say('outside', part ? `Grey: ${share} % of the first, where the second has nothing.` : '');
  if (!part) return [image];
  return [image, await layer('outside', outside, { colormap: 'outside', cal_min: 0, cal_max: 1 })];
}

function layer(name, volume, options) {
  return NVImage.loadFromUrl({ url: volume.buffer, name: `${name}.nii`, ...options });
}

// What the sliders say of the images that are shown.
function adjust() {
  for (const { image, window } of Object.values(files)) {
    const [black, white] = controls.same.checked && files.first ? files.first.window : window;
    image.cal_min = black;
    image.cal_max = black + (white - black) / 2 ** controls.brightness.value;
    image.opacity = 1;
  }
  if (controls.view.value === 'overlay') {
    const [, above] = panes.first.volumes;
    const { value } = controls.opacity;
    above.opacity = above === files.second.image ? Number(value) : 1 - value;
  }
  for (const view of shown()) {
    view.updateGLVolume();
    view.createOnLocationChange();
  }
}

function zoom() {
  const now = Number(controls.zoom.value);
  for (const view of shown()) {
    const [x, y, z, before] = view.scene.pan2Dxyzmm;
    const moved = [x, y, z].map((mm, axis) => mm + (before - now) * place(view)[axis]);
    view.setPan2Dxyzmm(now === 1 ? [0, 0, 0, 1] : [...moved, now]);
  }
}

function planes() {
  for (const side of SIDES) panes[side].setSliceType(SLICE_TYPE[controls.planes.value]);
}

function shown() {
  return SIDES.map(side => panes[side]).filter(view => view.volumes.length);
}

function place(view) {
  return view.frac2mm(view.scene.crosshairPos);
}

function size({ spacing }) {
  return spacing[0] * spacing[1] * spacing[2];
}

function described({ name, volume: { dims, spacing, frames } }) {
  const first = frames > 1 ? `; the first of ${frames} images` : '';
  const mm = spacing.map(one => one.toFixed(2)).join(' × ');
  return `${name}: ${dims.join(' × ')} voxels of ${mm} mm${first}`;
}

// Where there is no second, the difference is none and not 0.
function read(values) {
  const named = Object.fromEntries(values.map(({ name, value }) => [name.replace('.nii', ''), value]));
  const { outside, ...others } = named;
  return Object.entries(others).map(([name, value]) =>
    `${name} ${name === 'difference' && outside > 0.5 ? 'none, the second ends before' : short(value)}`);
}

function short(value) {
  return String(Number(value.toPrecision(4)));
}

function ramp(from, to) {
  const [R, G, B, A] = from.map((start, channel) => [start, to[channel]]);
  return { R, G, B, A, I: [0, 255] };
}

function trouble(about, what) {
  troubles[about] = what;
  say('trouble', Object.values(troubles).filter(Boolean).join(' '));
}

function say(id, what) {
  document.getElementById(id).textContent = what;
}
