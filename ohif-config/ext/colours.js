// How a map is coloured over the result. A protocol is written before any series is known, so it
// names a function that OHIF asks for the colours once they are.

/** The name under which a protocol asks for the colours of a map. */
export const colours = role => `mrisrColours-${role}`;

// OHIF's own maps of two colours have a third one in their middle.
const TWO_COLOURS = {
  Name: 'Taken away, added',
  ColorSpace: 'RGB',
  RGBPoints: [0, 0, 1, 1, 0.25, 0, 0, 1, 0.5, 0, 0, 0, 0.75, 1, 0, 0, 1, 1, 1, 0],
};

/** Make our colours known to Cornerstone. */
export const registerColours = ({ utilities }) => utilities.colormap.registerColormap(TWO_COLOURS);

const number = value => Number([].concat(value)[0]);

/** Colour maps and opacities by role; `width` is the window of the map, in its own values. */
export const colouring = {
  // Clear where the result is faithful: below a fifth of what is high.
  fidelity: ({ width }) => ({ name: 'jet', opacity: 0.97, threshold: 0.2 * width }),
  // Black at 0, so that what is unchanged is only darkened; blue was taken away, red was added.
  change: () => ({ name: TWO_COLOURS.Name, opacity: 0.97 }),
};

/** The window that a map was stored with. */
export function windowOf(displaySet) {
  const { WindowWidth, WindowCenter } = displaySet.instances[0];
  return { width: number(WindowWidth), center: number(WindowCenter) };
}
