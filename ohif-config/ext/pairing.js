// Which series is the original and which is its result. Knows nothing of OHIF but what a display
// set looks like, so that it can be tested alone.

const first = displaySet => displaySet.instances?.[0] ?? {};
const listed = value => (value === undefined || value === null ? [] : [].concat(value));

/** Values of ImageType, however they were decoded. */
const imageType = displaySet =>
  listed(first(displaySet).ImageType).flatMap(value => String(value).split('\\'));

const description = displaySet =>
  displaySet.SeriesDescription ?? first(displaySet).SeriesDescription ?? '';

const isImage = displaySet =>
  displaySet.Modality === 'MR' &&
  (displaySet.instances?.length > 1 || first(displaySet).NumberOfFrames > 1);

// An Enhanced MR object names them all in a sequence of its own.
const sourceImages = instance => [
  ...listed(instance.SourceImageSequence),
  ...listed(instance.SourceImageEvidenceSequence)
    .flatMap(study => listed(study.ReferencedSeriesSequence))
    .flatMap(series => listed(series.ReferencedSOPSequence)),
];

const isDerived = displaySet => imageType(displaySet).includes('DERIVED');

/**
 * A series that this node made to be seen beside its original: derived, and named "SR 1mm …".
 * "SR MNI 1mm …" lies in a frame of reference of its own, where nothing corresponds by place.
 */
export const isResult = displaySet =>
  isImage(displaySet) && isDerived(displaySet) && /^SR\s(?!MNI\s)/.test(description(displaySet));

const isOriginal = displaySet => isImage(displaySet) && !isDerived(displaySet);

/** Which series a link asks for; OHIF changes the case of parameter names. */
export function pinned(search) {
  const wanted = {};
  for (const [name, value] of new URLSearchParams(search)) {
    if (name.toLowerCase() === 'srcseries') wanted.source = value;
    if (name.toLowerCase() === 'srseries') wanted.result = value;
  }
  return wanted;
}

/**
 * The original and the result to compare, or null when the display sets hold no such pair.
 *
 * @param displaySets all display sets of the study
 * @param wanted series that must be taken, see `pinned`
 */
export function choosePair(displaySets, wanted = {}) {
  const images = displaySets.filter(isImage);
  const named = uid => images.filter(displaySet => displaySet.SeriesInstanceUID === uid);
  const originals = images.filter(isOriginal);
  const results = images.filter(isResult).sort(newestFirst);

  const [result] = named(wanted.result);
  const sources = named(wanted.source);
  // A series of several volumes (see `stacks.js`): the one that the result is made of.
  if (result && sources.length > 1) return pair(originalOf(result, sources), result);
  const [source] = sources;
  if (source && result) return { source, result };
  if (result) return pair(originalOf(result, originals), result);
  if (source) return pair(source, results.find(r => originalOf(r, originals) === source));
  for (const candidate of results) {
    const original = originalOf(candidate, originals);
    if (original) return { source: original, result: candidate };
  }
  return null;
}

const pair = (source, result) => (source && result ? { source, result } : null);

/** The original that a result was made of: by its references, else by what both have in common. */
export function originalOf(result, originals) {
  const { ReferencedSeriesSequence, FrameOfReferenceUID } = first(result);
  const series = new Set(listed(ReferencedSeriesSequence).map(item => item.SeriesInstanceUID));
  const images = new Set(
    result.instances.flatMap(sourceImages).map(item => item.ReferencedSOPInstanceUID)
  );
  const referenced =
    originals.find(original =>
      original.instances.some(instance => images.has(instance.SOPInstanceUID))
    ) ?? only(originals.filter(original => series.has(original.SeriesInstanceUID)));
  // References that lead to no series of this study: better no pair than a wrong one.
  if (referenced || images.size + series.size > 0) return referenced;

  const inPlace = originals.filter(
    original => FrameOfReferenceUID && first(original).FrameOfReferenceUID === FrameOfReferenceUID
  );
  const name = description(result);
  return (
    inPlace.find(original => description(original) && name.endsWith(description(original))) ??
    only(inPlace)
  );
}

const only = found => (found.length === 1 ? found[0] : undefined);

/** What accompanies a result: how its description begins, its SeriesNumber after the result's. */
const COMPANIONS = {
  fidelity: { modality: 'MR', title: 'Fidelity of ', after: 1000 },
  change: { modality: 'MR', title: 'Change by ', after: 2000 },
  mask: { modality: 'SEG', title: 'Brain of ', after: 3000 },
};

/**
 * The maps and the brain mask that were made together with a result, as far as they are there.
 *
 * @param result a display set, see `isResult`
 * @param displaySets all display sets of the study
 */
export function companionsOf(result, displaySets) {
  const found = {};
  for (const [role, { modality, title, after }] of Object.entries(COMPANIONS)) {
    // Descriptions are cut at 64 characters.
    const wanted = (title + description(result)).slice(0, 64).trim();
    const companion = displaySets.find(
      displaySet =>
        displaySet.Modality === modality &&
        description(displaySet).trim() === wanted &&
        number(displaySet) === number(result) + after &&
        made(displaySet) === made(result) &&
        isAbout(displaySet, result)
    );
    if (companion) found[role] = companion;
  }
  return found;
}

/**
 * Whether a series refers to a result, or to slices that it was made of. Two originals may share
 * number and description, and their results the second in which they were made.
 */
function isAbout(displaySet, result) {
  const instances = instancesOf(displaySet);
  const series = instances.flatMap(instance => listed(instance.ReferencedSeriesSequence));
  const sources = new Set(result.instances.flatMap(sourceImages).map(referenced));
  return (
    series.some(item => item.SeriesInstanceUID === result.SeriesInstanceUID) ||
    instances.flatMap(sourceImages).some(item => sources.has(referenced(item)))
  );
}

const referenced = item => item.ReferencedSOPInstanceUID;

// A segmentation is no list of instances.
const instancesOf = displaySet =>
  displaySet.instances?.length ? displaySet.instances : listed(displaySet.instance);

const number = displaySet =>
  Number(displaySet.SeriesNumber ?? first(displaySet).SeriesNumber);

function made(displaySet) {
  const [{ SeriesDate = '', SeriesTime = '', ContentDate, ContentTime } = {}] =
    instancesOf(displaySet);
  return `${ContentDate ?? SeriesDate}${ContentTime ?? SeriesTime}`;
}

const newestFirst = (a, b) => made(b).localeCompare(made(a));
