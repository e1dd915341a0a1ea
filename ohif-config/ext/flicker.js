// The same place in original and result, one after the other: both lie in one viewport, and a key
// shows and hides the result that lies on top.

/** Show or hide the upper volume of the active viewport; others are left alone. */
export function flicker(servicesManager) {
  const { viewportGridService, cornerstoneViewportService } = servicesManager.services;
  const viewport = cornerstoneViewportService.getCornerstoneViewport(
    viewportGridService.getActiveViewportId()
  );
  const volumes = viewport?.getActors?.() ?? [];
  if (volumes.length < 2) return;
  const { actor } = volumes[volumes.length - 1];
  actor.setVisibility(!actor.getVisibility());
  viewport.render();
}
