// Series that hold several volumes, as the echoes of one acquisition: OHIF would show the first of
// them alone, beside the result of any. Here each becomes a display set, by what the node too tells
// them apart by (mrisr_node/volumes/stacks.py).

const MR = ['1.2.840.10008.5.1.4.1.1.4'];
const NAME = 'mrisrStacks';
const OHIF_STACK = '@ohif/extension-default.sopClassHandlerModule.stack';

// What tells images of one plane apart, what tells most first; of numbers the words for the reader.
const CONTRAST = {
  EchoTime: value => `TE ${short(value)} ms`,
  InversionTime: value => `TI ${short(value)} ms`,
  FlipAngle: value => `flip angle ${short(value)} deg`,
  RepetitionTime: value => `TR ${short(value)} ms`,
};
const KIND = ['ImageType', ...Object.keys(CONTRAST)];
const PLANES = ['sagittal', 'coronal', 'axial'];
// A radial stack has a plane for each image.
const MOST_PLANES = 16;
const SAME_PLACE = 0.01; // mm
// Of cosines, and of pixel spacing in mm: headers are written with rounding.
const TOLERANCE = 1e-3;

const listed = value => [].concat(value ?? []).flatMap(one => String(one).split('\\'));
const text = value => listed(value).join('\\');
const numbers = value => listed(value).map(Number);
const short = value => String(Number(Number(value).toPrecision(6)));
const size = image => `${image.Columns} x ${image.Rows}`;
const kind = image => KIND.map(keyword => text(image[keyword])).join('|');

const near = keyword => (one, other) => {
  const [a, b] = [one, other].map(image => numbers(image[keyword]));
  return a.length === b.length && a.every((value, n) => Math.abs(value - b[n]) <= TOLERANCE);
};
const parallel = near('ImageOrientationPatient');
const alike = near('PixelSpacing');
const samePlane = (a, b) => parallel(a, b) && size(a) === size(b) && alike(a, b);

function normal(image) {
  const [a, b, c, d, e, f] = numbers(image.ImageOrientationPatient);
  return [b * f - c * e, c * d - a * f, a * e - b * d];
}

/** The images of each plane; no more than tell that there are too many. */
function planesOf(images) {
  const planes = [];
  for (const image of images) {
    const plane = planes.find(([first]) => samePlane(first, image));
    if (plane) plane.push(image);
    else if (planes.push([image]) > MOST_PLANES) break;
  }
  return planes;
}

/** Whether planes lie otherwise and differ in nothing else: one scan in several planes. */
function isLocalizer(planes) {
  if (planes.length > MOST_PLANES) return true;
  const placed = planes.filter(([first]) => first.ImageOrientationPatient);
  const kinds = placed.map(plane => new Set(plane.map(kind)));
  return placed.some(([one], n) =>
    placed.slice(0, n).some(
      ([other], m) => !parallel(one, other) && [...kinds[n]].some(found => kinds[m].has(found))
    )
  );
}

/** Whether all images of a plane lie at different places. */
function isVolume(images) {
  const across = normal(images[0]);
  const along = images
    .map(image => numbers(image.ImagePositionPatient))
    .map(position => across.reduce((sum, cosine, axis) => sum + cosine * position[axis], 0))
    .sort((a, b) => a - b);
  return along.every((at, n) => n === 0 || at - along[n - 1] >= SAME_PLACE);
}

/** Images of one plane, told apart as long as several lie at one place and something differs. */
function separated(images) {
  const several = keyword => new Set(images.map(image => text(image[keyword]))).size > 1;
  const keyword = isVolume(images) ? undefined : KIND.find(several);
  if (!keyword) return [images];
  const groups = new Map();
  for (const image of images) {
    const value = text(image[keyword]);
    groups.set(value, [...(groups.get(value) ?? []), image]);
  }
  return [...groups.values()].flatMap(separated);
}

// As the node counts them, so that "stack 2" is the same everywhere.
function inOrder([one], [other]) {
  const [a, b] = [one, other].map(image => [
    planeName(image),
    size(image),
    ...Object.keys(CONTRAST).map(keyword => Number(image[keyword] ?? -1)),
    text(image.ImageType),
  ]);
  const n = a.findIndex((value, at) => value !== b[at]);
  return n < 0 ? 0 : a[n] < b[n] ? -1 : 1;
}

/** The images of each volume, and of what else there is; nothing where the series is but one. */
export function split(images) {
  const planes = planesOf(images);
  if (isLocalizer(planes)) return [];
  const groups = planes.flatMap(separated).sort(inOrder);
  return groups.length > 1 && groups.some(group => group.length > 1 && isVolume(group))
    ? groups
    : [];
}

function planeName(image) {
  const reach = normal(image).map(Math.abs);
  return PLANES[reach.indexOf(Math.max(...reach))] ?? '';
}

/** A name for each group of images, all different: what distinguishes it from the others. */
export function labels(groups) {
  const firsts = groups.map(([first]) => first);
  const types = firsts.map(image => listed(image.ImageType));
  const own = image =>
    listed(image.ImageType).filter(value => !types.every(type => type.includes(value))).join(' ');
  const contrasts = Object.entries(CONTRAST).map(
    ([keyword, words]) => image => (image[keyword] === undefined ? '' : words(image[keyword]))
  );
  const telling = [planeName, size, ...contrasts, own].filter(
    describe => new Set(firsts.map(describe)).size > 1
  );
  const found = firsts.map(image =>
    telling.map(describe => describe(image)).filter(Boolean).join(', ')
  );
  const unique = label => label && found.filter(other => other === label).length === 1;
  return found.map((label, n) => (unique(label) ? label : `${label} stack ${n + 1}`.trim()));
}

/** A handler that leaves to OHIF's own whatever is one volume. */
export const stacks = ({ extensionManager }) => [
  {
    name: NAME,
    sopClassUids: MR,
    getDisplaySetsFromSeries: images => {
      const groups = split(images);
      const names = labels(groups);
      return groups.flatMap((group, n) => {
        const made = extensionManager.getModuleEntry(OHIF_STACK).getDisplaySetsFromSeries(group);
        for (const displaySet of made) {
          const named = `${displaySet.SeriesDescription} ${names[n]}`.trim();
          displaySet.setAttributes({ SeriesDescription: named, label: named });
        }
        return made;
      });
    },
  },
];
