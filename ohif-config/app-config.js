// OHIF as this node serves it: one data source, ours; nothing from anywhere else.

window.config = {
  name: 'mrisr_node',
  routerBasename: '/viewer',
  extensions: ['/viewer/ext/compare.js'],
  modes: [],

  // Studies that hold an original and its result open in the comparison; others as OHIF does.
  modesConfiguration: {
    '@ohif/mode-longitudinal': {
      hangingProtocol: { $set: ['mrisrSideBySide', 'default'] },
      sopClassHandlers: {
        $unshift: ['@mrisr/extension-compare.sopClassHandlerModule.mrisrStacks'],
      },
    },
  },
  customizationService: { global: { 'ohif.tours': { $set: [] } } },

  whiteLabeling: {
    createLogoComponentFn: react =>
      react.createElement(
        'a',
        { href: '/', title: 'Back to the series', style: { color: '#fff', fontWeight: 600 } },
        'mrisr_node'
      ),
  },

  showStudyList: true,
  showLoadingIndicator: true,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: false,
  showErrorDetails: 'always',
  investigationalUseDialog: { option: 'never' },
  // A volume of uneven slices would be shown where it is not.
  strictZSpacingForVolumeViewport: true,
  maxNumberOfWebWorkers: 3,
  // HTTP/1.1 to one host: browsers open six connections at a time anyway.
  maxNumRequests: { interaction: 20, thumbnail: 5, prefetch: 10 },

  httpErrorHandler: error => {
    if (error?.status === 401 || error?.request?.status === 401) {
      const here = window.location.pathname + window.location.search;
      window.location.assign(`/sign-in?next=${encodeURIComponent(here)}`);
    }
    return error;
  },

  // No dicomjson or dicomwebproxy: they load whatever a link tells them to (CVE-2026-12473).
  defaultDataSourceName: 'node',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'node',
      configuration: {
        name: 'node',
        friendlyName: 'mrisr_node',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        qidoSupportsIncludeField: false,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        supportsReject: false,
        // Measurements only: of a person's browser the gateway takes nothing else.
        supportsStow: true,
        dicomUploadEnabled: false,
        enableStudyLazyLoad: true,
        omitQuotationForMultipartRequest: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
