"""Running the node: Orthanc, the supervised processes, the sample, the demo and the doctor."""
