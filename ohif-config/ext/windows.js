// OHIF 3.13 hands a VOI LUT Function (PS3.3 C.11.2.1.3) on as a word, and Cornerstone takes the
// first letter of it: a stack of images that have one stays black. Said without the function, the
// window is the same.
//
// A width of 0, which scanners write for "not set", shows an image in negative. Without a window
// Cornerstone takes the whole range of the values.

/** The window of an image that names a function, in the terms of LINEAR. */
export function windowOfFunction({ VOILUTFunction, WindowCenter, WindowWidth }) {
  // LINEAR counts half a value on each side as the window's own.
  const half = VOILUTFunction === 'LINEAR_EXACT' ? 0.5 : 0;
  const numbers = values => [].concat(values).map(Number);
  return {
    windowCenter: numbers(WindowCenter).map(center => center + half),
    windowWidth: numbers(WindowWidth).map(width => width + 2 * half),
  };
}

const isSet = width => [].concat(width).every(value => Number(value) > 0);

/** Answer Cornerstone before OHIF does, for images that name a function or have no real window. */
export function mendWindows({ metaData }) {
  metaData.addProvider((kind, imageId) => {
    if (kind !== 'voiLutModule') return undefined;
    const instance = metaData.get('instance', imageId);
    if (instance?.WindowWidth === undefined) return undefined;
    if (!isSet(instance.WindowWidth)) return { windowCenter: undefined, windowWidth: undefined };
    return instance.VOILUTFunction ? windowOfFunction(instance) : undefined;
  }, 100000);
}
