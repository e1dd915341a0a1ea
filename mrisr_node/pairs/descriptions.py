"""What a dataset of pairs says about itself, the same in each."""

__all__ = ["BIDS_VERSION", "IGNORED", "README"]

BIDS_VERSION = "1.10.0"

IGNORED = """\
/manifest.json
/figures
"""

README = """\
# Pairs of MR brain volumes: high resolution, and simulated thick slices

Made by mrisr-node (`mrisr-node pairs`). Each subject has, in `anat/`:

- `…_res-hr_desc-preproc_<contrast>.nii.gz`: the brain at high resolution, the truth of each pair;
- `…_res-hr_desc-brain<contrast>_mask.nii.gz`: the brain mask on the same grid;
- `…_res-<plane><thickness>gap<gap>_desc-simulated_<contrast>.nii.gz`: the same brain in thick
  slices, one file for each protocol. Lengths are in mm, with p for the point: `res-axial4gap0p4`
  are axial slices 4 mm thick with gaps of 0.4 mm.

The JSON file beside each says what was done, to what (the SHA-256 of the source), with which
software, and of thick slices thickness, gap, profile, and that no noise was added. High and low
resolution lie at the same place in space: use the affine in each header. Low resolution covers as
many whole slices as fit into the field of view, centred in it, so its first slice begins where the
high resolution does or a little later.

With `space-MNI152NLin2009aSym` the brain was registered affinely to that template; without, it lies
on the grid of its scan. Intensities are in units of the mean inside the brain at high resolution.

`figures/` shows each pair in three planes: high resolution on the left, thick slices on the right.

`manifest.json` has the SHA-256 of every file but itself. To check them where jq is installed:

    jq -r '.files | to_entries[] | "\\(.value)  \\(.key)"' manifest.json | sha256sum --check

Thick slices are simulated: they show what a slice profile does, not noise, motion or the contrast
of another pulse sequence. Subjects are numbered as they came; nothing here tells who they are, but
a brain is personal by itself. Who may use these data is for those to say who own the scans: see
`License` in `dataset_description.json`, if they have given one.
"""
