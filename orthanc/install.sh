#!/usr/bin/env bash
# Installs the Debian packages that the node needs and this machine lacks; does nothing, quickly,
# where none is lacking. Without apt-get, the right to use it or what it fetches, says what to
# install and ends well: the node can use an Orthanc that runs elsewhere (MRISR_ORTHANC_URL), and
# works without most of the others.
set -euo pipefail

# What the user must read goes to descriptor 3, which setup keeps on the terminal.
{ true >&3; } 2>/dev/null || exec 3>&2

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

missing=()
have Orthanc || missing+=(orthanc)
compgen -G '/usr/*/orthanc/plugins/libOrthancDicomWeb.so' >/dev/null ||
  compgen -G '/usr/local/share/orthanc/plugins/libOrthancDicomWeb.so' >/dev/null ||
  missing+=(orthanc-dicomweb)
have storescu || missing+=(dcmtk)
[ -f /usr/share/mricron/templates/ch2.nii.gz ] || missing+=(mricron-data)
have chromium || missing+=(chromium)
have npm || missing+=(npm)
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing+=(python3-venv)
[ ${#missing[@]} -gt 0 ] || exit 0

by_hand() {
  echo "setup: $1. Install by hand what these Debian packages hold, or go on without:" >&3
  echo "setup:   ${missing[*]}" >&3
  exit 0
}

have apt-get || by_hand "this system has no apt-get"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  have sudo && sudo -n true 2>/dev/null || by_hand "apt-get needs root, or sudo without a password"
  as_root=(sudo -n)
fi

echo "setup: installing ${missing[*]}" >&3
# Debian starts a service as soon as its package is installed. The node runs its own Orthanc, so
# the start is forbidden for the time of the installation, as Debian policy 9.3.3.1 provides.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
# Old lists may still do, so only the installation decides.
"${as_root[@]}" apt-get update -q || echo "apt-get update failed"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -q -y --no-install-recommends "${missing[@]}" ||
  by_hand "apt-get could not install everything (.setup/setup.log says why)"
case " ${missing[*]} " in
  *" orthanc "*)
    # Nor must it start with the machine: it would be a second, unconfigured PACS.
    "${as_root[@]}" update-rc.d orthanc disable || true
    ;;
esac
