// OHIF loads this at run time (see app-config.js): comparisons of an original MR series with its
// super-resolved result, and a layout menu that offers them.

import { choosePair, pinned } from './pairing.js';
import { HAS_PAIR, ROLE, protocols } from './protocols.js';

const currentPair = servicesManager =>
  choosePair(
    servicesManager.services.displaySetService.getActiveDisplaySets(),
    pinned(window.location.search)
  );

function preRegistration({ servicesManager }) {
  const { hangingProtocolService } = servicesManager.services;

  hangingProtocolService.addCustomAttribute(ROLE, 'Role in the comparison', displaySet => {
    const pair = currentPair(servicesManager);
    const uid = displaySet?.displaySetInstanceUID;
    if (uid && pair?.source.displaySetInstanceUID === uid) return 'source';
    if (uid && pair?.result.displaySetInstanceUID === uid) return 'result';
    return 'other';
  });

  hangingProtocolService.addCustomAttribute(
    HAS_PAIR,
    'The study has an original and its result',
    () => currentPair(servicesManager) !== null
  );
}

// OHIF greys out a preset unless all its series are shown already; ours need only be in the study.
function presets({ servicesManager }) {
  const { hangingProtocolService } = servicesManager.services;
  const disabled = currentPair(servicesManager) === null;
  const ours = protocols.map(({ id, name, icon }) => ({
    icon,
    title: name,
    commandOptions: { protocolId: id },
    disabled,
  }));
  const mpr = hangingProtocolService.getProtocolById('mpr');
  return mpr
    ? [...ours, { icon: mpr.icon, title: mpr.name, commandOptions: { protocolId: mpr.id } }]
    : ours;
}

export default {
  id: '@mrisr/extension-compare',
  version: '0.1.0',
  preRegistration,
  getHangingProtocolModule: () => protocols.map(protocol => ({ name: protocol.id, protocol })),
  getCustomizationModule: () => [
    { name: 'global', value: { 'layoutSelector.advancedPresetGenerator': { $set: presets } } },
  ],
};
