// Reads NIfTI-1 files and subtracts one from another: no page, no drawing. A volume is
// { dims, spacing, frames, affine, values, buffer }. `values` are the first frame's, as the header
// scales them; `affine` has three rows and leads from voxel to mm (RAS+); `buffer` is a NIfTI file
// of just that in little-endian float32, whatever the file was.

// By datatype code: what reads it from a DataView, and its bytes.
const KINDS = {
  2: ['getUint8', 1], 256: ['getInt8', 1], 4: ['getInt16', 2], 512: ['getUint16', 2],
  8: ['getInt32', 4], 768: ['getUint32', 4], 16: ['getFloat32', 4], 64: ['getFloat64', 8],
};
const FLOAT32 = 16;
const HEADER = 348;
const VOXELS = 352;
const MAGIC = 0x6e2b3100; // "n+1": header and image in one file

// Of a blob; throws an Error that says in a reader's words what is wrong with it.
export async function readNifti(blob) {
  const file = new DataView(await unpacked(blob));
  const little = file.byteLength > VOXELS && file.getInt32(0, true) === HEADER;
  if (!little && !(file.byteLength > VOXELS && file.getInt32(0) === HEADER)) {
    throw new Error('is no NIfTI file (NIfTI-1, .nii or .nii.gz)');
  }
  if (file.getUint32(344) !== MAGIC) throw new Error('is half of a pair: the image is in another file');
  const shorts = (at, n) => Array.from({ length: n }, (_, i) => file.getInt16(at + 2 * i, little));
  const floats = (at, n) => Array.from({ length: n }, (_, i) => file.getFloat32(at + 4 * i, little));

  const [rank, ...sizes] = shorts(40, 8);
  const dims = sizes.slice(0, 3);
  if (rank < 3 || dims.some(n => n < 1)) throw new Error('holds no volume');
  const [datatype] = shorts(70, 1);
  if (!KINDS[datatype]) throw new Error(`holds no plain numbers (its datatype is ${datatype})`);
  const affine = placed(shorts, floats);
  if (!affine) throw new Error('does not say where it lies (neither sform nor qform)');
  if (!affine.flat().every(Number.isFinite) || !inverse(affine)) {
    throw new Error('has a geometry that cannot be (voxels without volume)');
  }
  const [get, bytes] = KINDS[datatype];
  const [start, slope, intercept] = floats(108, 3);
  const end = start + dims[0] * dims[1] * dims[2] * bytes;
  if (!(start >= HEADER && end <= file.byteLength)) throw new Error('is cut off');

  const volume = made(dims, affine);
  const scaled = slope !== 0 && Number.isFinite(slope) && Number.isFinite(intercept);
  for (let n = 0, at = start; n < volume.values.length; n++, at += bytes) {
    const stored = file[get](at, little);
    const value = scaled ? stored * slope + intercept : stored;
    volume.values[n] = Number.isFinite(value) ? value : 0;
  }
  return { ...volume, frames: rank > 3 ? Math.max(1, sizes[3]) : 1 };
}

// The second minus the first on the first's grid, by linear interpolation; and on the same grid 1
// where there is no second to compare with, and `part`, how much of it that is.
export function difference(first, second) {
  const [nx, ny, nz] = first.dims;
  const [x, y, z] = times(inverse(second.affine), first.affine);
  const volume = made(first.dims, first.affine);
  const outside = made(first.dims, first.affine);
  let count = 0;
  for (let k = 0, n = 0; k < nz; k++) {
    for (let j = 0; j < ny; j++) {
      for (let i = 0; i < nx; i++, n++) {
        const other = sample(second, along(x, i, j, k), along(y, i, j, k), along(z, i, j, k));
        if (Number.isNaN(other)) count += outside.values[n] = 1;
        else volume.values[n] = other - first.values[n];
      }
    }
  }
  return { volume, outside, part: count / volume.values.length };
}

// Whether two volumes can have a point in common: their boxes along the axes of space do.
export function overlap(first, second) {
  const [a, b] = [box(first), box(second)];
  return a.every(([low, high], axis) => low < b[axis][1] && b[axis][0] < high);
}

// The value below which that part of the values lies, from 0 to 1; to a 4096th of their range.
export function quantile(values, part) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!(high > low)) return high;
  const bins = new Uint32Array(4096);
  const width = (high - low) / bins.length;
  for (const value of values) bins[Math.min(bins.length - 1, Math.floor((value - low) / width))]++;
  let left = part * values.length, bin = 0;
  while (bin < bins.length && left > bins[bin]) left -= bins[bin++];
  return Math.min(high, low + (bin + 1) * width);
}

async function unpacked(blob) {
  const start = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (start[0] !== 0x1f || start[1] !== 0x8b) return blob.arrayBuffer();
  try {
    const stream = blob.stream().pipeThrough(new DecompressionStream('gzip'));
    return await new Response(stream).arrayBuffer();
  } catch {
    throw new Error('is damaged or cut off: it cannot be unpacked');
  }
}

// The affine of a header: sform before qform, as nibabel has it, with which the node reads.
function placed(shorts, floats) {
  const [qform, sform] = shorts(252, 2);
  if (sform > 0) return [floats(280, 4), floats(296, 4), floats(312, 4)];
  if (qform <= 0) return null;
  const [b, c, d, ...offset] = floats(256, 6);
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const [side, ...size] = floats(76, 4);
  if (side < 0) size[2] *= -1;
  return [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ].map((row, n) => [...row.map((cosine, axis) => cosine * size[axis]), offset[n]]);
}

// A volume of nothing, and the file that holds it.
function made(dims, affine) {
  const spacing = [0, 1, 2].map(axis => Math.hypot(...affine.map(row => row[axis])));
  const buffer = new ArrayBuffer(VOXELS + 4 * dims[0] * dims[1] * dims[2]);
  const header = new DataView(buffer);
  header.setInt32(0, HEADER, true);
  [3, ...dims, 1, 1, 1, 1].forEach((n, i) => header.setInt16(40 + 2 * i, n, true));
  header.setInt16(70, FLOAT32, true);
  header.setInt16(72, 32, true);
  [1, ...spacing].forEach((mm, i) => header.setFloat32(76 + 4 * i, mm, true));
  header.setFloat32(108, VOXELS, true);
  header.setFloat32(112, 1, true);
  header.setUint8(123, 2); // mm
  header.setInt16(254, 1, true);
  affine.flat().forEach((number, i) => header.setFloat32(280 + 4 * i, number, true));
  header.setUint32(344, MAGIC);
  return { dims, spacing, affine, values: new Float32Array(buffer, VOXELS), buffer };
}

// Linear interpolation at a place in voxels; NaN outside. A voxel reaches half its width further
// than its middle, and rounding a hair further than that.
function sample({ dims: [nx, ny, nz], values }, x, y, z) {
  const edge = 0.5 + 1e-4;
  if (!(x >= -edge && y >= -edge && z >= -edge)) return NaN;
  if (!(x <= nx - 1 + edge && y <= ny - 1 + edge && z <= nz - 1 + edge)) return NaN;
  const px = Math.min(Math.max(x, 0), nx - 1), i = Math.floor(px), fx = px - i;
  const py = Math.min(Math.max(y, 0), ny - 1), j = Math.floor(py), fy = py - j;
  const pz = Math.min(Math.max(z, 0), nz - 1), k = Math.floor(pz), fz = pz - k;
  // At the last voxel the next one has no weight: any will do.
  const dx = i + 1 < nx ? 1 : 0, dy = j + 1 < ny ? nx : 0, dz = k + 1 < nz ? nx * ny : 0;
  const at = (k * ny + j) * nx + i;
  const row = start => values[start] + fx * (values[start + dx] - values[start]);
  const near = row(at) + fy * (row(at + dy) - row(at));
  const far = row(at + dz) + fy * (row(at + dz + dy) - row(at + dz));
  return near + fz * (far - near);
}

function box({ dims, affine }) {
  return affine.map(row => {
    const reach = [0, 1, 2].map(axis => row[axis] * (dims[axis] - 0.5));
    const start = [0, 1, 2].map(axis => row[axis] * -0.5);
    const ends = [0, 1, 2].map(axis => [start[axis], reach[axis]]);
    const sum = pick => ends.reduce((total, pair) => total + pick(...pair), row[3]);
    return [sum(Math.min), sum(Math.max)];
  });
}

function along(row, i, j, k) {
  return row[0] * i + row[1] * j + row[2] * k + row[3];
}

function times(a, b) {
  return a.map(row => [0, 1, 2, 3].map(column =>
    row[0] * b[0][column] + row[1] * b[1][column] + row[2] * b[2][column]
      + (column === 3 ? row[3] : 0)));
}

function inverse([[a, b, c, p], [d, e, f, q], [g, h, i, r]]) {
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  if (!(Math.abs(determinant) > 1e-9)) return null;
  return [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map(row => row.map(cofactor => cofactor / determinant))
    .map(row => [...row, -(row[0] * p + row[1] * q + row[2] * r)]);
}
