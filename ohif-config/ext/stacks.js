// Series that hold several volumes, as the echoes of one acquisition: OHIF would show the first of
// them alone, beside the result of any. Here each becomes a display set, by what the node too tells
// them apart by (mrisr_node/volumes/stacks.py).

const ENOUGH = 8; // images; fewer make no volume
const MR = ['1.2.840.10008.5.1.4.1.1.4'];
const NAME = 'mrisrStacks';
const OHIF_STACK = '@ohif/extension-default.sopClassHandlerModule.stack';

const text = value => [].concat(value ?? []).join('\\');
const rounded = values => [].concat(values ?? []).map(value => Number(value).toFixed(2)).join('\\');

// What distinguishes images, with the words for the reader.
const CONTRAST = {
  EchoTime: value => `TE ${Number(value)} ms`,
  InversionTime: value => `TI ${Number(value)} ms`,
  RepetitionTime: value => `TR ${Number(value)} ms`,
  FlipAngle: value => `flip angle ${Number(value)} deg`,
};
const plane = image => rounded(image.ImageOrientationPatient);
const size = image => `${image.Columns} x ${image.Rows}`;
const place = image => rounded(image.ImagePositionPatient);
const contrast = image => Object.keys(CONTRAST).map(keyword => text(image[keyword])).join('|');

const key = image => [plane(image), size(image), text(image.ImageType), contrast(image)].join('|');

const several = (images, of) => new Set(images.map(of)).size > 1;
const isVolume = images =>
  !several(images, plane) &&
  !several(images, size) &&
  new Set(images.map(place)).size === images.length;

/** The images of each volume, and of what else there is; nothing where the series is but one. */
export function split(images) {
  const groups = new Map();
  for (const image of images) {
    groups.set(key(image), [...(groups.get(key(image)) ?? []), image]);
  }
  const found = [...groups.values()];
  const volumes = found.filter(group => group.length >= ENOUGH && isVolume(group));
  return found.length > 1 && volumes.length && !isVolume(images) ? found : [];
}

/** What distinguishes one group of images from the others. */
export function label(group, images) {
  const words = Object.keys(CONTRAST)
    .filter(keyword => several(images, image => text(image[keyword])))
    .filter(keyword => group[0][keyword] !== undefined)
    .map(keyword => CONTRAST[keyword](group[0][keyword]));
  if (several(images, size)) words.unshift(size(group[0]));
  return words.join(', ');
}

/** A handler that leaves to OHIF's own whatever is one volume. */
export const stacks = ({ extensionManager }) => [
  {
    name: NAME,
    sopClassUids: MR,
    getDisplaySetsFromSeries: images =>
      split(images).flatMap(group => {
        const made = extensionManager.getModuleEntry(OHIF_STACK).getDisplaySetsFromSeries(group);
        for (const displaySet of made) {
          const named = `${displaySet.SeriesDescription} ${label(group, images)}`.trim();
          displaySet.setAttributes({ SeriesDescription: named, label: named });
        }
        return made;
      }),
  },
];
