// The same place in original and result, one after the other: both lie in one viewport, and a key
// shows and hides the result that lies on top.

import { FLICKER } from './protocols.js';

/** Show or hide the result in the viewport that holds both; no other viewport knows the key. */
export function flicker(servicesManager) {
  const viewport = servicesManager.services.cornerstoneViewportService.getCornerstoneViewport(
    FLICKER
  );
  // Original first, result second: as the protocol names them.
  const actor = viewport?.getActors()[1]?.actor;
  if (!actor) return;
  actor.setVisibility(!actor.getVisibility());
  viewport.render();
}
