// OHIF loads this at run time (see app-config.js): comparisons of an original MR series with its
// super-resolved result, and a layout menu that offers them.

import { colouring, colours, registerColours, windowOf } from './colours.js';
import { flicker } from './flicker.js';
import { notices } from './notice.js';
import { choosePair, companionsOf, pinned } from './pairing.js';
import { HAS_PAIR, ROLE, needs, protocols } from './protocols.js';
import { stacks } from './stacks.js';
import { mendWindows } from './windows.js';

/** Original, result and what accompanies it, by role; empty where the study has no pair. */
function roles(servicesManager) {
  const displaySets = servicesManager.services.displaySetService.getActiveDisplaySets();
  const pair = choosePair(displaySets, pinned(window.location.search));
  return pair ? { ...pair, ...companionsOf(pair.result, displaySets) } : {};
}

function preRegistration({ servicesManager }) {
  const { hangingProtocolService } = servicesManager.services;
  mendWindows(window.cornerstone);
  registerColours(window.cornerstone);

  hangingProtocolService.addCustomAttribute(ROLE, 'Role in the comparison', displaySet => {
    const uid = displaySet?.displaySetInstanceUID;
    for (const [role, played] of Object.entries(uid ? roles(servicesManager) : {})) {
      if (played.displaySetInstanceUID === uid) return role;
    }
    return 'other';
  });

  for (const [role, choose] of Object.entries(colouring)) {
    hangingProtocolService.addCustomAttribute(colours(role), `Colours of ${role}`, () => {
      const map = roles(servicesManager)[role];
      return map && choose(windowOf(map));
    });
  }

  hangingProtocolService.addCustomAttribute(
    HAS_PAIR,
    'The study has an original and its result',
    () => 'result' in roles(servicesManager)
  );
}

// OHIF greys out a preset unless all its series are shown already; ours need only be in the study.
function presets({ servicesManager }) {
  const { hangingProtocolService } = servicesManager.services;
  const there = roles(servicesManager);
  const ours = protocols.map(({ id, name, icon }) => ({
    icon,
    title: name,
    commandOptions: { protocolId: id },
    disabled: !('result' in there) || (id in needs && !(needs[id] in there)),
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
  getSopClassHandlerModule: stacks,
  getCommandsModule: ({ servicesManager }) => ({
    definitions: { mrisrFlicker: { commandFn: () => flicker(servicesManager) } },
    defaultContext: 'DEFAULT',
  }),
  getCustomizationModule: () => [
    {
      name: 'global',
      value: {
        'layoutSelector.advancedPresetGenerator': { $set: presets },
        'viewportOverlay.topLeft': { $push: notices },
        'ohif.hotkeyBindings': {
          $push: [
            {
              commandName: 'mrisrFlicker',
              label: 'Original or result (flicker)',
              keys: ['x'],
              isEditable: true,
            },
          ],
        },
      },
    },
  ],
};
